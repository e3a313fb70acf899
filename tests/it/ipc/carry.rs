//! Values that carry descriptors: wherever in a value they stand, whichever way they travel, whatever ends the call.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::sys::signal::Signal;
use procpool::Fd;
use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Serialize;
use serde::Serializer;
use serde::de::value::SeqDeserializer;
use serde::ser::Error as _;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Notebook;
use crate::harness::sys;
use crate::ipc::Reader;
use crate::ipc::Writer;
use crate::ipc::clones;
use crate::ipc::pipe;
use crate::ipc::pool_with_descriptors;
use crate::ipc::read_to_end;
use crate::ipc::say;

cases![
    argument_anywhere_inside_a_value,
    field_of_a_plain_type,
    result_and_result_of_a_result,
    context_for_many_items,
    initializer_in_replacements_too,
    hundreds_in_a_map,
    two_workers_talk,
    large_value_that_carries,
    as_many_as_the_kernel_takes,
    retry_sends_it_again,
    result_is_read_twice,
    into_value_leaves_one_owner,
    values_that_fail_keep_nothing,
    outside_a_value_it_is_a_typed_error,
    panic_half_way_keeps_nothing,
    forked_copy_of_a_result_harms_nothing,
];

#[derive(Serialize, Deserialize)]
enum Sink {
    Pipe { writer: Writer, prefix: String },
    None,
}

#[derive(Serialize, Deserialize)]
struct Nested {
    sinks: Vec<Sink>,
    by_name: BTreeMap<String, Option<(u8, Writer)>>,
    boxed: Box<Writer>,
}

fn argument_anywhere_inside_a_value(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..3 {
        let (reader, writer) = pipe();
        let copy = || Fd::new(writer.try_clone().unwrap());
        let sinks = vec![Sink::None, Sink::Pipe { writer: copy(), prefix: "a".to_owned() }, Sink::None];
        let by_name = BTreeMap::from([("x".to_owned(), None), ("y".to_owned(), Some((7, copy())))]);
        let value = Nested { sinks, by_name, boxed: Box::new(copy()) };
        let count = pool.apply((1u8, value, "end".to_owned()), |_, value: Nested, end| {
            let mut count = 0;
            for sink in &value.sinks {
                if let Sink::Pipe { writer, prefix } = sink {
                    say(writer, prefix);
                    count += 1;
                }
            }
            if let Some((number, writer)) = &value.by_name["y"] {
                say(writer, &number.to_string());
            }
            say(&value.boxed, &end);
            count
        });
        assert_eq!(count.unwrap(), 1);
        drop(writer);
        assert_eq!(read_to_end(reader), "a7end");
    }
}

#[derive(Serialize, Deserialize)]
struct Plain {
    #[serde(with = "procpool::fd")]
    file: File,
    #[serde(with = "procpool::fd")]
    raw: OwnedFd,
}

/// The open file is shared, with its offset.
fn field_of_a_plain_type(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    file.seek(std::io::SeekFrom::Start(3)).unwrap();
    let (reader, writer) = pipe();
    let value = Plain { file: file.try_clone().unwrap(), raw: writer.into_inner().into() };
    let text = pool.apply((value,), |mut value| {
        let mut bytes = [0; 4];
        value.file.read_exact(&mut bytes).unwrap();
        nix::unistd::write(&value.raw, b"read").unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    });
    assert_eq!(text.unwrap(), "3456");
    assert_eq!(file.stream_position().unwrap(), 7);
    assert_eq!(read_to_end(reader), "read");
}

/// A pipe whose other end has been written to and closed.
fn written(text: String) -> Reader {
    let (reader, writer) = pipe();
    say(&writer, &text);
    Fd::new(reader)
}

fn result_and_result_of_a_result(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let reader = pool.apply(("one".to_owned(),), written).unwrap();
    assert_eq!(read_to_end(reader.into_inner()), "one");
    let result: Result<Reader, String> =
        pool.apply(("two".to_owned(),), |text| Ok::<_, String>(written(text))).unwrap();
    assert_eq!(read_to_end(result.unwrap().into_inner()), "two");
    let error: Result<Reader, Writer> = pool
        .apply((0u8,), |_| {
            let (_, writer) = pipe();
            Err::<Reader, Writer>(writer)
        })
        .unwrap();
    assert_eq!((&*error.unwrap_err()).write(b"x").unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    let fallible: Result<Reader, TaskError> = pool.apply(("three".to_owned(),), |text| anyhow::Ok(written(text)));
    assert_eq!(read_to_end(fallible.unwrap().into_inner()), "three");
    let mixed = pool.map(0..40u32, |x| (x % 3 == 0).then(|| written(x.to_string()))).unwrap();
    for (x, reader) in (0..40).zip(mixed) {
        assert_eq!(reader.map(|reader| read_to_end(reader.into_inner())), (x % 3 == 0).then(|| x.to_string()));
    }
}

fn context_for_many_items(method: StartMethod) {
    let pool = stage::pool(method, 3);
    for _ in 0..3 {
        let (reader, writer) = pipe();
        let context = (writer, "!".to_owned());
        let sum: u32 = pool
            .with(&context)
            .chunk_size(3)
            .map(0..100u32, |(writer, text), x| {
                say(writer, text);
                x
            })
            .unwrap()
            .iter()
            .sum();
        assert_eq!(sum, 4950);
        drop(context);
        // The call is over, so every worker drops the context.
        assert_eq!(read_to_end(reader), "!".repeat(100));
    }
}

fn initializer_in_replacements_too(method: StartMethod) {
    let (reader, writer) = pipe();
    let many: Vec<Writer> = (0..20).map(|_| Fd::new(writer.try_clone().unwrap())).collect();
    let start = |writers: Vec<Writer>, text: String| {
        assert!(writers.len() == 20);
        say(&writers[19], &text);
    };
    let pool =
        Pool::builder().processes(1).start_method(method).initializer((many, "s".to_owned()), start).build().unwrap();
    for _ in 0..3 {
        let pid = pool.apply((), std::process::id).unwrap();
        stage::signal(pid, Signal::SIGKILL);
        stage::until_replaced(&pool, 1, &[pid]);
    }
    pool.apply((), std::process::id).unwrap();
    pool.close();
    pool.join().unwrap();
    drop((pool, writer));
    assert_eq!(read_to_end(reader), "ssss");
}

fn hundreds_in_a_map(method: StartMethod) {
    let pool = pool_with_descriptors(method, 2);
    let (reader, writer) = pipe();
    let items = (0..400u32).map(|x| (x, Fd::new(writer.try_clone().unwrap())));
    let back = pool
        .starmap(items, |x, writer: Writer| {
            say(&writer, ".");
            (x, writer)
        })
        .unwrap();
    assert!(back.iter().map(|(x, _)| *x).eq(0..400));
    drop((back, writer));
    assert_eq!(read_to_end(reader).len(), 400);
    // An `imap` of more than there are descriptors: few are open at once.
    let (reader, writer) = pipe();
    let items = (0..3000u32).map(|_| Fd::new(writer.try_clone().unwrap()));
    let answers = pool.imap(items, |writer: Writer| say(&writer, ","));
    assert_eq!(answers.map(Result::unwrap).count(), 3000);
    drop(writer);
    assert_eq!(read_to_end(reader).len(), 3000);
}

/// A queue between two workers: the parent only introduces them.
fn two_workers_talk(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for round in 0..20u32 {
        let (reader, writer) = pipe();
        let reading = pool.apply_async((Fd::new(reader),), |reader: Reader| read_to_end(reader.into_inner()).len());
        let writing = pool.apply_async((writer, round), |writer: Writer, round| {
            for _ in 0..round * 100 {
                say(&writer, "0123456789");
            }
        });
        writing.get().unwrap();
        assert_eq!(reading.get().unwrap(), round as usize * 1000);
    }
}

fn large_value_that_carries(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for len in [59_000, 60 * 1024, 61 * 1024, 300_000, 20 << 20] {
        let (reader, writer) = pipe();
        let text = "x".repeat(len);
        let (back, returned) = pool
            .apply((text, writer), |text: String, writer: Writer| {
                say(&writer, &text.len().to_string());
                (text, writer)
            })
            .unwrap();
        say(&returned, "!");
        drop(returned);
        assert_eq!(back.len(), len);
        assert_eq!(read_to_end(reader), format!("{len}!"));
    }
}

fn as_many_as_the_kernel_takes(method: StartMethod) {
    let pool = pool_with_descriptors(method, 1);
    let (reader, writer) = pipe();
    let back = pool.apply((clones(&writer, 253),), |writers: Vec<Writer>| {
        writers.iter().for_each(|writer| say(writer, "."));
        writers
    });
    let back = back.unwrap();
    assert_eq!(back.len(), 253);
    let too_many = stage::error(pool.apply((clones(&writer, 254),), |writers: Vec<Writer>| writers.len()));
    assert!(matches!(&too_many, TaskError::Encode { message, .. } if message.contains("at most 253")), "{too_many}");
    let result = stage::error(pool.apply((back,), |mut writers: Vec<Writer>| {
        writers.push(Fd::new(writers[0].try_clone().unwrap()));
        writers
    }));
    assert!(matches!(&result, TaskError::Encode { message, .. } if message.contains("at most 253")), "{result}");
    // The bytes of a large value take one.
    let large = || "x".repeat(100_000);
    let len =
        pool.apply((large(), clones(&writer, 252)), |text: String, writers: Vec<Writer>| text.len() + writers.len());
    assert_eq!(len.unwrap(), 100_252);
    let too_many = stage::error(pool.apply((large(), clones(&writer, 253)), |_: String, _: Vec<Writer>| ()));
    assert!(matches!(&too_many, TaskError::Encode { message, .. } if message.contains("one less")), "{too_many}");
    drop(writer);
    assert_eq!(read_to_end(reader).len(), 253);
    stage::assert_works(&pool);
}

fn retry_sends_it_again(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (reader, writer) = pipe();
    let book = Notebook::new();
    let result = pool.retries(3).apply((writer, book.path()), |writer: Writer, path| {
        say(&writer, "try ");
        stage::note(&path, "here");
        if stage::lines_of(&path).len() < 3 {
            std::process::abort();
        }
    });
    result.unwrap();
    assert_eq!(read_to_end(reader), "try try try ");
}

fn result_is_read_twice(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let handle = pool.apply_async((0u8,), |_| {
        let (reader, writer) = pipe();
        say(&writer, "ab");
        (Fd::new(reader), writer)
    });
    let (first, writer) = handle.get().unwrap();
    let (second, _) = handle.get().unwrap();
    let mut byte = [0];
    for (reader, expected) in [(&first, b"a"), (&second, b"b")] {
        (&**reader).read_exact(&mut byte).unwrap();
        assert_eq!(&byte, expected);
    }
    drop(second);
    say(&writer, "c");
    (&*first).read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"c");
    // The handle keeps the writing end.
    drop(writer);
    fcntl(&*first, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    assert_eq!((&*first).read(&mut byte).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(handle);
    fcntl(&*first, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    assert_eq!(read_to_end(first.into_inner()), "");
}

fn into_value_leaves_one_owner(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (reader, writer) = pipe();
    let back = pool.apply_async((writer,), |writer: Writer| writer).into_value().unwrap();
    say(&back, "mine");
    drop(back);
    assert_eq!(read_to_end(reader), "mine");
}

/// Fails, or panics, behind a descriptor.
#[derive(Debug)]
struct Half {
    writer: Writer,
    panics: bool,
}

impl Serialize for Half {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut tuple = serializer.serialize_tuple(2)?;
        tuple.serialize_element(&self.writer)?;
        assert!(!self.panics, "half way");
        Err(S::Error::custom("half way"))
    }
}

impl<'de> Deserialize<'de> for Half {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (writer, panics) = Deserialize::deserialize(deserializer)?;
        Ok(Self { writer, panics })
    }
}

fn descriptors() -> usize {
    processes::descriptors(std::process::id()).len()
}

fn values_that_fail_keep_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    let before = descriptors();
    for panics in [false, true] {
        let (reader, writer) = pipe();
        let half = Half { writer, panics };
        let error = stage::error(pool.apply((half,), |_: Half| ()));
        assert!(matches!(&error, TaskError::Encode { message, .. } if message.contains("half way")), "{error}");
        assert_eq!(read_to_end(reader), "");
        let (reader, writer) = pipe();
        let error = stage::error(pool.apply((writer, panics), |writer: Writer, panics| Half { writer, panics }));
        assert!(matches!(&error, TaskError::Encode { message, .. } if message.contains("half way")), "{error}");
        assert_eq!(read_to_end(reader), "");
        // A good item among bad ones.
        let (reader, writer) = pipe();
        let good = Fd::new(writer.try_clone().unwrap());
        let items = vec![Err(Half { writer, panics }), Ok(good)];
        let results = pool.map_results(items, |item: Result<Writer, Half>| say(&item.ok().unwrap(), "good")).unwrap();
        assert!(results[0].is_err() && results[1].is_ok());
        assert_eq!(read_to_end(reader), "good");
    }
    assert_eq!(descriptors(), before);
}

/// By another serializer, or bytes that came from elsewhere.
fn outside_a_value_it_is_a_typed_error(method: StartMethod) {
    fn assert_refused(writer: &Writer) {
        struct ByOther<'a>(&'a Writer);
        impl std::fmt::Display for ByOther<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.serialize(f)
            }
        }
        let mut text = String::new();
        std::fmt::Write::write_fmt(&mut text, format_args!("{}", ByOther(writer))).unwrap_err();
        let bytes = SeqDeserializer::<_, serde::de::value::Error>::new([0u32].into_iter());
        let error = Writer::deserialize(bytes).unwrap_err().to_string();
        assert!(error.contains("only as part of the value with which it was sent"), "{error}");
    }
    // The pool first: forked workers have copies of everything that was open before.
    let pool = stage::pool(method, 1);
    let (reader, writer) = pipe();
    assert_refused(&writer);
    pool.apply((writer,), |writer: Writer| assert_refused(&writer)).unwrap();
    assert_eq!(read_to_end(reader), "");
}

fn panic_half_way_keeps_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (reader, writer) = pipe();
    let error = stage::error(pool.apply((writer, Picky(5)), |_: Writer, _: Picky| ()));
    assert!(matches!(&error, TaskError::Decode { message, .. } if message.contains("not five")), "{error}");
    assert_eq!(read_to_end(reader), "");
    stage::assert_works(&pool);
}

/// Encodes as 5 and does not decode.
#[derive(Serialize)]
struct Picky(u8);

impl<'de> Deserialize<'de> for Picky {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u8::deserialize(deserializer)?;
        assert!(number != 5, "not five");
        Ok(Self(number))
    }
}

/// A task forks while it has a carried descriptor; so may the parent while it holds a result. The copy keeps its end open
/// only as long as it lives.
fn forked_copy_of_a_result_harms_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (reader, writer) = pipe();
    let handle = pool.apply_async((writer,), |writer: Writer| writer);
    let back = handle.get().unwrap();
    let code = sys::in_a_forked_copy(|| {
        // What is in a handle belongs to the process that made the pool.
        assert!(handle.get().is_err());
        say(&back, "copy");
        3
    });
    assert_eq!(code, 3);
    drop((back, handle));
    assert_eq!(read_to_end(reader), "copy");
}
