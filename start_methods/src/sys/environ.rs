//! The environment of a process that has one thread: read and changed without a lock.
//!
//! std and the C library each guard the environment with a lock. In a forked child, a thread of the parent that held one
//! of them at the fork holds it for ever. So the child reads the array itself, and puts a new one in its place.
//!
//! # Invariants
//!
//! - An array and its strings are never changed and never freed once they are the environment: pointers into the former
//!   one stay valid.

#![expect(unsafe_code, reason = "the environment is a global array of pointers")]

use std::env;
use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::ffi::c_char;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::ptr;

unsafe extern "C" {
    /// environ(7).
    static mut environ: *mut *mut c_char;
}

/// A variable as the environment holds it. Neither text may contain a zero byte.
pub(crate) fn entry_of(mut name: OsString, value: &OsStr) -> CString {
    name.push("=");
    name.push(value);
    CString::new(name.into_vec()).expect("the settings were checked, and all other text was a C string before")
}

/// The variables of a forked child, as they were at the fork. Only while this process has one thread.
pub(crate) fn variables() -> impl Iterator<Item = (OsString, OsString)> {
    entries().into_iter().filter_map(|entry| split(entry.to_bytes()))
}

fn entries() -> Vec<&'static CStr> {
    let mut entries = Vec::new();
    // SAFETY: the only thread of this process reads it, so nothing changes it meanwhile.
    let mut place = unsafe { environ };
    // `environ` itself is null after clearenv(3).
    while !place.is_null() {
        // SAFETY: the array ends with a null pointer, and this place is not behind that.
        let entry = unsafe { *place };
        if entry.is_null() {
            break;
        }
        // SAFETY: the environment consists of C strings, and no code frees one.
        entries.push(unsafe { CStr::from_ptr(entry) });
        // SAFETY: this place was not the last one.
        place = unsafe { place.add(1) };
    }
    entries
}

/// Name and value. As in std, a name may begin with "=", and what has no "=" is not a variable.
fn split(entry: &[u8]) -> Option<(OsString, OsString)> {
    let at = 1 + entry.get(1..)?.iter().position(|byte| *byte == b'=')?;
    let (name, value) = (OsStr::from_bytes(&entry[..at]), OsStr::from_bytes(&entry[at + 1..]));
    Some((name.to_owned(), value.to_owned()))
}

/// Gives this process another environment. Only for a forked child before its entry, which has one thread.
pub(crate) fn replace(variables: impl Iterator<Item = (OsString, OsString)>) {
    let entries = variables.map(|(name, value)| entry_of(name, &value).into_raw());
    let array: Vec<*mut c_char> = entries.chain([ptr::null_mut()]).collect();
    // Leaked, as its strings are: the C library and others keep pointers into it.
    let first = array.leak().as_mut_ptr();
    // SAFETY: the caller is the only thread, so nothing reads the environment meanwhile. The array ends with a null
    // pointer and lives for ever. environ(7) may be assigned to: setenv(3) copies an array that is not its own.
    unsafe { environ = first };
}

/// Removes a variable. Only while this process has one thread, and was not forked: it takes the lock of std.
pub(crate) fn remove(name: &OsStr) {
    // SAFETY: the caller is the only thread of this process, so no other thread reads the environment meanwhile.
    unsafe { env::remove_var(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_split_at_the_first_sign_behind_its_first_byte() {
        let pair = |entry: &str| split(entry.as_bytes());
        assert_eq!(pair("A=1=2"), Some(("A".into(), "1=2".into())));
        assert_eq!(pair("A="), Some(("A".into(), "".into())));
        assert_eq!(pair("=A=1"), Some(("=A".into(), "1".into())));
        for other in ["", "=", "A", "=A"] {
            assert_eq!(pair(other), None, "{other:?}");
        }
        assert_eq!(entry_of("A".into(), "1=2".as_ref()), c"A=1=2".to_owned());
    }
}
