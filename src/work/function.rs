//! References to functions that another process of the same build can resolve and call.
//!
//! A function pointer means nothing in another process, which may load the image at another address. What travels is a
//! [`Definition`]: two positions relative to their images, one of the function and one of its [`Glue`]. The glue is a
//! constant of this crate for each signature, which decodes the arguments, calls the function and encodes the result. The
//! worker resolves both, and checks before anything is called that they are inside a loaded image of the same build, that
//! the glue is readable and aligned and the code executable, the magic number, and the signature.
//!
//! The *pair* identifies a function: compilers merge functions with the same code, so one address may stand for several
//! functions, which is harmless for a call and useless as a name.
//!
//! Also called: trampoline, vtable, remote function pointer, type erasure.

#![expect(unsafe_code, reason = "a function's address arrives as a number; each SAFETY note says what was checked")]

use std::any::Any;
use std::any::TypeId;
use std::hash::Hash;
use std::hash::Hasher;
use std::marker::PhantomData;

use parking_lot::RwLock;
use serde::Deserialize;
use serde::Serialize;
use start_methods::image;
use start_methods::image::ImageRef;

use crate::error::Side;
use crate::values::codec;
use crate::values::codec::Coding;
use crate::values::number;
use crate::values::number::NumberBytes;
use crate::values::output::Output;
use crate::work::shape::Shape;
use crate::work::task::Args;
use crate::work::task::Data;
use crate::work::task::Initialized;
use crate::work::task::Outcome;

/// The first bytes of every glue: "proc", "glu" and a version.
const MAGIC: u64 = u64::from_le_bytes(*b"procglu1");

/// The number of a function; see [`LocalFunction::id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FunctionId(pub(crate) u32);

/// A function as it is sent to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Definition {
    glue: ImageRef,
    function: ImageRef,
    signature: u64,
}

/// How one call ended, unless it panicked. The buffer of the call has bytes that go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completion {
    /// The bytes are the value.
    Value,
    /// The bytes are the text of the function's error.
    Failed,
    /// The bytes are the text of serde's error for this value.
    NotDecoded(Side),
    /// The bytes are the text of serde's error for the result.
    NotEncoded,
}

/// A source of items that are run one after the other inside one call of the glue, and the sink of their results.
pub(crate) trait ItemStream {
    /// Takes the completion of the previous item, whose bytes are in the buffer that came with that item, and returns the
    /// next item and an empty buffer; `None` if there are no more for now.
    fn exchange(&mut self, previous: Option<Completion>) -> Option<(&[u8], &mut Output)>;

    /// As [`exchange`](Self::exchange), for an item whose result is a number, and a next one that is a number of `wanted`
    /// bytes: both pass in registers, which takes a fraction of the time. The number is padded. `None` if the next item
    /// has to be asked for by `exchange`; the result was taken all the same.
    fn exchange_number(&mut self, previous: NumberBytes, wanted: usize) -> Option<[u8; number::LEN_MAX]>;

    /// The empty buffer for the completion of the current item.
    fn output(&mut self) -> &mut Output;
}

/// A stream of one item.
struct SingleItem<'a> {
    item: Option<&'a [u8]>,
    out: &'a mut Output,
    completion: Option<Completion>,
}

impl ItemStream for SingleItem<'_> {
    fn exchange(&mut self, previous: Option<Completion>) -> Option<(&[u8], &mut Output)> {
        self.completion = self.completion.or(previous);
        let item = self.item.take()?;
        Some((item, self.out))
    }

    fn exchange_number(&mut self, previous: NumberBytes, _: usize) -> Option<[u8; number::LEN_MAX]> {
        self.out.append_encoded(previous.as_slice());
        self.completion = Some(Completion::Value);
        None
    }

    fn output(&mut self) -> &mut Output {
        self.out
    }
}

/// A decoded context, or the text of serde's error.
type DecodedContext = Result<Box<dyn Any>, String>;

/// The code that depends on the types of one call, behind an interface of plain bytes.
#[repr(C)]
#[derive(Debug)]
struct Glue {
    magic: u64,
    signature: fn() -> u64,
    /// Decodes the context.
    open: fn(&[u8]) -> DecodedContext,
    /// Runs the function at an address on every item.
    run: unsafe fn(usize, &dyn Any, &mut dyn ItemStream),
}

/// The glue of tasks: input and context are owned data, and the output is an [`Outcome`].
struct TaskGlue<S, M>(PhantomData<fn(S) -> M>);

impl<S: Shape, M: 'static> TaskGlue<S, M>
where
    S::Context: Data,
    S::Input: Data,
    S::Output: Outcome<M>,
{
    const GLUE: &'static Glue =
        &Glue { magic: MAGIC, signature: signature_of::<Self>, open: Self::open, run: Self::run };

    fn open(bytes: &[u8]) -> DecodedContext {
        codec::decode::<S::Context>(bytes).map(|context| Box::new(context) as Box<dyn Any>)
    }

    /// # Safety
    ///
    /// `address` must have come from `S::address` of a pointer of this very build.
    unsafe fn run(address: usize, context: &dyn Any, items: &mut dyn ItemStream) {
        // SAFETY: the caller promises that this is the address of a function of that type, in this process.
        let f = unsafe { pointer_from_address::<S::Pointer>(address) };
        let context = context.downcast_ref::<S::Context>().expect("the context was decoded by this very glue");
        let mut completion = None;
        while let Some((item, out)) = items.exchange(completion) {
            completion = match codec::coding(Coding::Deserialize, || codec::parse::<S::Input>(item)) {
                Ok(input) => match Self::len_of_numbers() {
                    Some(wanted) => Self::call_with_numbers(f, context, input, wanted, items),
                    None => Some(Self::call(f, context, input, out)),
                },
                Err(error) => Some(fail(out, &error, Completion::NotDecoded(Side::Argument))),
            };
        }
    }

    #[inline]
    fn call(f: S::Pointer, context: &S::Context, input: S::Input, out: &mut Output) -> Completion {
        match S::call(f, context, input).into_value() {
            Ok(value) => match codec::coding(Coding::Serialize, || codec::append(&value, out)) {
                Ok(()) => Completion::Value,
                Err(error) => fail(out, &error, Completion::NotEncoded),
            },
            Err(error) => fail(out, &error, Completion::Failed),
        }
    }

    /// The length of an input, if inputs and results are numbers.
    #[inline]
    fn len_of_numbers() -> Option<usize> {
        number::len_of::<<S::Output as Outcome<M>>::Value>()?;
        number::len_of::<S::Input>()
    }

    /// Runs the function on a number and on those behind it, until something else comes. Returns the completion that the
    /// stream has not been given.
    #[inline]
    fn call_with_numbers(
        f: S::Pointer,
        context: &S::Context,
        mut input: S::Input,
        wanted: usize,
        items: &mut dyn ItemStream,
    ) -> Option<Completion> {
        loop {
            let value = match S::call(f, context, input).into_value() {
                Ok(value) => value,
                Err(error) => return Some(fail(items.output(), &error, Completion::Failed)),
            };
            let answer = number::to_bytes(&value).expect("results are numbers");
            let next = items.exchange_number(answer, wanted)?;
            let next = number::from_bytes(&next[..wanted]).expect("inputs are numbers");
            input = next.expect("the length is that of an input");
        }
    }
}

/// The glue of initializers. An initializer runs once per worker, so its arguments may live as long as the worker.
struct InitializerGlue<T, O>(PhantomData<fn(T) -> O>);

impl<T: Args + Deserialize<'static>, O: Initialized> InitializerGlue<T, O> {
    const GLUE: &'static Glue =
        &Glue { magic: MAGIC, signature: signature_of::<Self>, open: |_| Ok(Box::new(())), run: Self::run };

    /// # Safety
    ///
    /// `address` must have come from `T::address` of a pointer of this very build.
    unsafe fn run(address: usize, _: &dyn Any, items: &mut dyn ItemStream) {
        // SAFETY: the caller promises that this is the address of a function of that type, in this process.
        let f = unsafe { pointer_from_address::<T::Fp<O>>(address) };
        let mut completion = None;
        while let Some((item, out)) = items.exchange(completion) {
            completion = Some(Self::call(f, item, out));
        }
    }

    fn call(f: T::Fp<O>, input: &[u8], out: &mut Output) -> Completion {
        // Leaked on purpose, once per worker: that makes `("db.sqlite",)`, a `&'static str`, a valid argument.
        let input: &'static [u8] = Box::leak(Box::from(input));
        match codec::coding(Coding::Deserialize, || codec::parse::<T>(input)) {
            Ok(args) => match args.call(f).into_result() {
                Ok(()) => Completion::Value,
                Err(error) => fail(out, &error, Completion::Failed),
            },
            Err(error) => fail(out, &error, Completion::NotDecoded(Side::Argument)),
        }
    }
}

/// Appends the text of an error; returns `completion`.
fn fail(out: &mut Output, text: &str, completion: Completion) -> Completion {
    out.append_encoded(text.as_bytes());
    completion
}

/// # Safety
///
/// `address` must be the address of a function of exactly the type `P`, a function pointer.
unsafe fn pointer_from_address<P: Copy + 'static>(address: usize) -> P {
    const { assert!(size_of::<P>() == size_of::<usize>(), "P is a function pointer") };
    // SAFETY: function pointers and `usize` have the same size on every platform with an operating system, checked
    // above, and the caller promises that the number is such an address.
    unsafe { std::mem::transmute_copy::<usize, P>(&address) }
}

/// A number for a type: the same in all processes of one build, and different for different types of one build.
pub(crate) fn signature_of<T: 'static>() -> u64 {
    struct Fold(u64);
    impl Hasher for Fold {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            // FNV-1a: it has no seed, so all processes compute the same number.
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
    }
    let mut fold = Fold(0xcbf2_9ce4_8422_2325);
    TypeId::of::<T>().hash(&mut fold);
    fold.finish()
}

/// A function of this process, which can be sent to a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalFunction {
    glue: &'static Glue,
    address: usize,
}

impl LocalFunction {
    /// The task `f`, whose calls have the shape `S`.
    pub(crate) fn task<S: Shape, M: 'static>(f: S::Pointer) -> Self
    where
        S::Context: Data,
        S::Input: Data,
        S::Output: Outcome<M>,
    {
        Self { glue: TaskGlue::<S, M>::GLUE, address: S::address(f) }
    }

    /// The initializer `f`.
    pub(crate) fn initializer<T: Args + Deserialize<'static>, O: Initialized>(f: T::Fp<O>) -> Self {
        Self { glue: InitializerGlue::<T, O>::GLUE, address: T::address::<O>(f) }
    }

    /// The definition by which another process resolves the function.
    ///
    /// # Errors
    ///
    /// The function or its glue is in no loaded image: generated code, for instance.
    pub(crate) fn definition(&self) -> Result<Definition, String> {
        let find = |address: usize| {
            image::locate(address).ok_or_else(|| {
                format!("{address:#x} is in no loaded image of this program, so no other process could find it")
            })
        };
        Ok(Definition {
            glue: find(std::ptr::from_ref(self.glue) as usize)?,
            function: find(self.address)?,
            signature: (self.glue.signature)(),
        })
    }

    /// A small number for this function, the same for all pools and the whole life of this process.
    ///
    /// # Errors
    ///
    /// Another process could not resolve it; see [`definition`](Self::definition).
    pub(crate) fn id(&self) -> Result<FunctionId, String> {
        let key = (std::ptr::from_ref(self.glue) as usize, self.address);
        let position = |known: &[LocalFunction]| {
            known.iter().position(|f| (std::ptr::from_ref(f.glue) as usize, f.address) == key)
        };
        let found = position(&FUNCTIONS.read());
        let index = match found {
            Some(index) => index,
            None => {
                // Checked once per function: it does not move.
                self.definition()?;
                let mut functions = FUNCTIONS.write();
                // Looked up again: another thread may have registered it between the two locks.
                position(&functions).unwrap_or_else(|| {
                    functions.push(*self);
                    functions.len() - 1
                })
            }
        };
        Ok(FunctionId(u32::try_from(index).expect("a program has fewer than 2^32 functions")))
    }

    /// The function with this number.
    pub(crate) fn of(id: FunctionId) -> Self {
        FUNCTIONS.read()[id.0 as usize]
    }
}

/// Every function that was ever given to a pool of this process. The list only grows; the size of the program bounds it.
static FUNCTIONS: RwLock<Vec<LocalFunction>> = RwLock::new(Vec::new());

/// A function that was resolved in this process, and checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResolvedFunction {
    glue: &'static Glue,
    address: usize,
}

impl ResolvedFunction {
    /// Resolves a definition.
    ///
    /// # Errors
    ///
    /// The text says which check has failed. The function itself has not been called.
    pub(crate) fn find(definition: &Definition) -> Result<Self, String> {
        let glue = definition
            .glue
            .resolve_data(size_of::<Glue>(), align_of::<Glue>())
            .map_err(|error| format!("the glue of the function: {error}"))?;
        let address = definition.function.resolve_code().map_err(|error| format!("the function: {error}"))?;
        const { assert!(std::mem::offset_of!(Glue, magic) == 0) };
        let magic = std::ptr::with_exposed_provenance::<u64>(glue);
        // SAFETY: `resolve_data` has checked that the size of a `Glue`, aligned, is in a readable segment of a loaded image
        // with the sender's build id; its first field is a plain number, which is valid whatever its bits.
        let magic = unsafe { magic.read() };
        if magic != MAGIC {
            return Err("the glue of the function is not one (wrong magic number)".to_owned());
        }
        // SAFETY: the same image of the same build, and the magic number: these are the bytes of a glue, which is a
        // constant, so they never change.
        let glue: &'static Glue = unsafe { &*std::ptr::with_exposed_provenance::<Glue>(glue) };
        if (glue.signature)() != definition.signature {
            return Err("the function has another signature here".to_owned());
        }
        Ok(Self { glue, address })
    }

    /// Decodes the context of a call.
    ///
    /// # Errors
    ///
    /// The text of serde's error.
    pub(crate) fn open(&self, context: &[u8]) -> DecodedContext {
        (self.glue.open)(context)
    }

    /// Decodes the items of the stream one after the other, runs the function on each, and appends the bytes of its result
    /// to the buffer that came with the item. A panic passes through.
    pub(crate) fn run(&self, context: &dyn Any, items: &mut dyn ItemStream) {
        // SAFETY: the definition came from the parent, which made it from a pointer of the type that the signature stands
        // for; `find` has checked signature, build and image.
        unsafe { (self.glue.run)(self.address, context, items) }
    }

    /// [`run`](Self::run) for one item.
    pub(crate) fn call(&self, context: &dyn Any, input: &[u8], out: &mut Output) -> Completion {
        let mut single = SingleItem { item: Some(input), out, completion: None };
        self.run(context, &mut single);
        single.completion.expect("a glue completes every item that it takes, or panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::shape::Map;
    use crate::work::shape::StarWith;
    use crate::work::task::Plain;

    fn resolved<S: Shape<Output: Outcome<Plain>, Input: Data, Context: Data>>(f: S::Pointer) -> ResolvedFunction {
        ResolvedFunction::find(&LocalFunction::task::<S, Plain>(f).definition().unwrap()).unwrap()
    }

    #[test]
    fn a_function_is_found_and_called_through_bytes() {
        let function = resolved::<Map<u32, u64>>(|x| u64::from(x) * 2);
        let mut out = Output::default();
        assert_eq!(function.call(&(), &21u32.to_le_bytes(), &mut out), Completion::Value);
        assert_eq!(codec::decode::<u64>(out.bytes()), Ok(42));
    }

    #[test]
    fn a_context_is_passed_by_reference() {
        let function = resolved::<StarWith<String, (u8, u8), String>>(|s, a, b| format!("{s}{a}{b}"));
        let mut encoded = Output::default();
        codec::encode(&"x", &mut encoded).unwrap();
        let context = function.open(encoded.bytes()).unwrap();
        let mut input = Output::default();
        codec::encode(&(1u8, 2u8), &mut input).unwrap();
        let mut out = Output::default();
        assert_eq!(function.call(context.as_ref(), input.bytes(), &mut out), Completion::Value);
        assert_eq!(codec::decode::<String>(out.bytes()), Ok("x12".to_owned()));
    }

    #[test]
    fn a_wrong_signature_is_refused() {
        let mut definition = LocalFunction::task::<Map<u8, u8>, Plain>(|x| x).definition().unwrap();
        definition.signature ^= 1;
        let error = ResolvedFunction::find(&definition).unwrap_err();
        assert_eq!(error, "the function has another signature here");
    }

    #[test]
    fn data_that_is_no_glue_is_refused() {
        static NOT_GLUE: [u64; 4] = [1, 2, 3, 4];
        let mut definition = LocalFunction::task::<Map<u8, u8>, Plain>(|x| x).definition().unwrap();
        definition.glue = image::locate(NOT_GLUE.as_ptr() as usize).unwrap();
        let error = ResolvedFunction::find(&definition).unwrap_err();
        assert_eq!(error, "the glue of the function is not one (wrong magic number)");
    }

    #[test]
    fn the_same_function_has_one_number() {
        fn f(x: u8) -> u8 {
            x
        }
        let first = LocalFunction::task::<Map<u8, u8>, Plain>(f).id();
        assert_eq!(LocalFunction::task::<Map<u8, u8>, Plain>(f).id(), first);
        assert_ne!(LocalFunction::task::<Map<u16, u16>, Plain>(|x| x).id(), first);
    }
}
