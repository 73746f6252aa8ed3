//! What one end of a ring writes the other reads, and a hostile other end does no harm.

#[cfg(not(loom))]
use super::heap;

#[cfg(not(loom))]
mod one_thread {
    use std::collections::VecDeque;
    use std::fs::File;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::chunks::{Format, REQUEST_HEADER_SIZE, Ring};
    use super::super::copy::copy;
    use super::super::heap::{Heap, pair, ring};
    use super::super::region::{Mapping, Region};
    use crate::error::RingError;
    use crate::sync::Ordering;
    use crate::sys::file::page_size;

    const WORDS: u32 = 1024;

    #[test]
    fn chunks_come_out_as_they_went_in_and_in_order() {
        let (mut producer, mut consumer, ..) = pair(WORDS);
        assert!(producer.try_send(&[b"one", b"", b"and two"]).unwrap());
        assert!(producer.try_send(&[]).unwrap());
        assert!(consumer.has_chunk());
        assert_eq!(consumer.try_receive().unwrap().unwrap(), &b"oneand two"[..]);
        assert_eq!(consumer.try_receive().unwrap().unwrap(), &b""[..]);
        assert_eq!(consumer.try_receive().unwrap(), None);
    }

    #[test]
    fn staged_chunks_are_shown_all_at_once() {
        let (mut producer, mut consumer, ..) = pair(WORDS);
        for chunk in [b"one", b"two"] {
            assert!(producer.stage(&[chunk]).unwrap());
        }
        assert!(!consumer.has_chunk());
        assert_eq!((consumer.try_receive().unwrap(), consumer.used()), (None, 0));
        producer.commit().unwrap();
        let mut chunk = b"what was there before".to_vec();
        for expected in [b"one", b"two"] {
            assert!(consumer.try_receive_into(&mut chunk).unwrap());
            assert_eq!(chunk, expected);
        }
        assert!(!consumer.try_receive_into(&mut chunk).unwrap());
    }

    #[test]
    fn a_full_ring_takes_no_more_until_it_is_read() {
        let (mut producer, mut consumer, ..) = pair(WORDS);
        let chunk = [7; 1000];
        let sent = (0..10).take_while(|_| producer.try_send(&[&chunk]).unwrap()).count();
        assert_eq!(sent, 4);
        consumer.try_receive().unwrap().unwrap();
        assert!(producer.try_send(&[&chunk]).unwrap());
        assert!(!producer.fits(4096));
    }

    #[test]
    fn geometry_that_does_not_fit_the_files_is_refused() {
        let open =
            |words: u32, size: usize| ring(&Heap::header(words), &Heap::new(size)).map(|_| ());
        assert_eq!(open(1024, 1024), Ok(()));
        let small = RingError::TooSmall { ring: "test", file: "data", have: 4096, need: 4100 };
        assert_eq!(open(1025, 1024), Err(small));
        assert!(open(u32::MAX, 1024).is_err() && open(0, 1024).is_err() && open(1, 1024).is_err());
        let (header, data) = (Heap::header(WORDS), Heap::new(1024));
        header.word(4).store(1024, Ordering::Relaxed);
        let index = RingError::Index { ring: "test", index: 1024, words: 1024 };
        assert_eq!(ring(&header, &data).unwrap().consumer().map(|_| ()), Err(index));
    }

    #[test]
    fn an_announced_chunk_that_is_not_there_is_an_error() {
        let (_, mut consumer, header, _) = pair(WORDS);
        header.double_word(8208).store(1, Ordering::Relaxed);
        assert_eq!(consumer.try_receive(), Err(RingError::Magic { ring: "test", magic: 0 }));
    }

    #[test]
    fn a_chunk_larger_than_the_ring_is_an_error() {
        let (mut producer, mut consumer, _, data) = pair(WORDS);
        producer.try_send(&[b"payload"]).unwrap();
        data.word(0).store(u32::MAX, Ordering::Relaxed);
        let error = RingError::ChunkSize { ring: "test", size: u32::MAX, limit: 4084 };
        assert_eq!(consumer.try_receive(), Err(error));
    }

    #[test]
    fn a_read_index_outside_the_ring_is_an_error_for_the_writer() {
        let (mut producer, _, header, _) = pair(WORDS);
        header.word(4).store(5000, Ordering::Relaxed);
        assert_eq!(
            producer.try_send(&[b"x"]),
            Err(RingError::Index { ring: "test", index: 5000, words: 1024 })
        );
    }

    #[test]
    fn every_byte_of_a_payload_is_copied_and_no_other() {
        let from: Vec<u8> = (1..=80).collect();
        for (offset, length) in
            (0..9).flat_map(|offset| (0..70).map(move |length| (offset, length)))
        {
            let mut to = [0; 80];
            let target = to.as_mut_ptr().wrapping_add(offset);
            // SAFETY: both have the bytes, and are two variables of this thread.
            unsafe { copy(from.as_ptr().wrapping_add(offset), target, length) };
            let (before, rest) = to.split_at(offset);
            let (copied, behind) = rest.split_at(length);
            assert_eq!(copied, &from[offset..offset + length]);
            assert!(before.iter().chain(behind).all(|byte| *byte == 0));
        }
    }

    /// A header file with all its fields, and data of some pages.
    fn mapped(pages: usize) -> ([File; 2], Ring<Mapping>) {
        let files = [REQUEST_HEADER_SIZE, pages * page_size()].map(|size| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(size as u64).unwrap();
            (Mapping::new(&file, size).unwrap(), file)
        });
        let [(header, header_file), (data, data_file)] = files;
        header.word(8).store((data.size() / 4).try_into().unwrap(), Ordering::Relaxed);
        ([header_file, data_file], Ring::open("test", Format::LIBQB_014, header, data).unwrap())
    }

    #[test]
    fn a_file_that_was_cut_short_is_an_error_whatever_is_done() {
        type Use = fn(Ring<Mapping>) -> Result<(), RingError>;
        const LOST: RingError = RingError::Truncated { ring: "test" };
        crate::guard_against_truncation().unwrap();
        let header: [Use; 7] = [
            |ring| ring.producer()?.try_send(&[b"x"]).map(drop),
            |ring| ring.consumer()?.try_receive().map(drop),
            |ring| ring.consumer()?.receive(Duration::from_millis(1)).map(drop),
            |ring| {
                let consumer = ring.consumer()?;
                assert!(consumer.has_chunk(), "whoever looks must find the error");
                consumer.ring().check()
            },
            |ring| {
                assert_eq!(ring.ref_count().load(Ordering::Acquire), 0);
                ring.check()
            },
            |ring| {
                ring.flow_control().store(1, Ordering::Release);
                ring.check()
            },
            |ring| Ring::open("test", Format::LIBQB_014, ring.header, ring.data).map(drop),
        ];
        for use_it in header {
            let (files, ring) = mapped(1);
            files[0].set_len(0).unwrap();
            assert!(!ring.is_lost(), "nobody has touched it");
            assert_eq!(use_it(ring), Err(LOST));
        }
        let (files, ring) = mapped(1);
        files[1].set_len(0).unwrap();
        assert_eq!(ring.producer().unwrap().try_send(&[b"x"]), Err(LOST));
        let (files, ring) = mapped(1);
        ring.header.double_word(8208).store(1, Ordering::Relaxed);
        files[1].set_len(0).unwrap();
        assert_eq!(ring.consumer().unwrap().try_receive(), Err(LOST));
    }

    #[test]
    fn a_chunk_whose_payload_was_lost_is_not_announced() {
        crate::guard_against_truncation().unwrap();
        let (files, ring) = mapped(2);
        files[1].set_len(page_size() as u64).unwrap();
        let sent = ring.producer().unwrap().try_send(&[&vec![7; page_size() * 3 / 2]]);
        assert_eq!(sent, Err(RingError::Truncated { ring: "test" }));
        let header = Mapping::new(&files[0], REQUEST_HEADER_SIZE).unwrap();
        assert_eq!(header.double_word(8208).load(Ordering::Relaxed), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send(usize),
        Receive,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![(0_usize..3000).prop_map(Step::Send), Just(Step::Receive)]
    }

    /// Miri takes an hour for as many as the others.
    const MOST_STEPS: usize = if cfg!(miri) { 20 } else { 200 };

    proptest! {
        #[test]
        fn any_order_of_sends_and_receives_keeps_every_byte(
            steps in prop::collection::vec(step(), 1..MOST_STEPS)
        ) {
            let (mut producer, mut consumer, ..) = pair(WORDS);
            let mut expected: VecDeque<Vec<u8>> = VecDeque::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Send(size) => {
                        let chunk: Vec<u8> = (0..size).map(|at| (at * 31 + number) as u8).collect();
                        let (first, second) = chunk.split_at(size / 3);
                        let used: usize = expected.iter().map(|chunk| 8 + chunk.len().next_multiple_of(4)).sum();
                        let sent = producer.try_send(&[first, second]).unwrap();
                        prop_assert_eq!(sent, 4096 - 4 - used >= size + 12);
                        if sent {
                            expected.push_back(chunk);
                        }
                    }
                    Step::Receive => {
                        let received = consumer.try_receive().unwrap().map(|chunk| chunk.to_vec());
                        prop_assert_eq!(received, expected.pop_front());
                    }
                }
            }
        }

        #[test]
        fn whatever_the_other_end_writes_is_an_error_or_a_chunk(
            words in prop::collection::vec(any::<u32>(), 1024),
            indices in any::<(u32, u32)>(),
            announced in 0_u64..5,
        ) {
            let (mut producer, mut consumer, header, data) = pair(WORDS);
            for (at, value) in words.into_iter().enumerate() {
                data.word(at * 4).store(if at % 5 == 1 { 0xA1A1_A1A1 } else { value % 5000 }, Ordering::Relaxed);
            }
            header.word(0).store(indices.0, Ordering::Relaxed);
            header.word(4).store(indices.1, Ordering::Relaxed);
            header.double_word(8208).store(announced, Ordering::Relaxed);
            for _ in 0..5 {
                if let Ok(Some(chunk)) = consumer.try_receive() {
                    prop_assert!(chunk.len() <= 4084);
                }
                let _ = producer.try_send(&[b"abc"]);
            }
        }
    }
}

/// Miri runs it with many seeds: its threads see old values wherever the ordering allows it.
#[cfg(not(loom))]
#[test]
fn two_threads_hand_over_whole_chunks_in_order() {
    use std::thread::{scope, yield_now};

    let (mut producer, mut consumer, ..) = heap::pair(1024);
    // Together they go round the ring more than once.
    let chunks: Vec<Vec<u8>> = (0..12).map(|number| vec![number; 700]).collect();
    scope(|scope| {
        scope.spawn(|| {
            for chunk in &chunks {
                while !producer.try_send(&[chunk]).unwrap() {
                    yield_now();
                }
            }
        });
        for expected in &chunks {
            let chunk = loop {
                match consumer.try_receive().unwrap() {
                    Some(chunk) => break chunk,
                    None => yield_now(),
                }
            };
            assert_eq!(chunk, expected);
        }
    });
}

/// Every interleaving of two ends, and every value that the memory model lets them read.
#[cfg(loom)]
mod model {
    use std::time::Duration;

    use loom::sync::Arc;
    use loom::thread;

    use super::super::heap::{Heap, pair_at};
    use super::super::region::Region;
    use super::super::sem;
    use crate::sync::model::{STEP, pass_time};
    use crate::sync::{AtomicU64, Ordering, now};

    const WORDS: u32 = 16;

    /// Ends only when woken.
    const LONG: Duration = Duration::from_secs(3600);

    /// Three preemptions find what more would find, and take seconds.
    fn model(body: impl Fn() + Send + Sync + 'static) {
        model_with(3, body);
    }

    fn model_with(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(preemptions);
        model.check(body);
    }

    /// A chunk takes 11 of 15 words, so the producer waits until the consumer has taken the first
    /// one, and writes where it was. Payloads go over the end of the ring.
    #[test]
    fn chunks_pass_whole_and_in_order_through_a_full_ring_that_wraps_around() {
        model(|| {
            let (mut producer, mut consumer, ..) = pair_at(WORDS, 13);
            let chunks =
                [0, 100].map(|first| std::array::from_fn::<u8, 36, _>(|at| first + at as u8));
            let writer = thread::spawn(move || {
                for chunk in &chunks {
                    while !producer.try_send(&[&chunk[..9], &chunk[9..]]).unwrap() {
                        thread::yield_now();
                    }
                }
            });
            for expected in &chunks {
                assert_eq!(consumer.receive(LONG).unwrap().unwrap(), &expected[..]);
            }
            writer.join().unwrap();
        });
    }

    /// Several chunks fit, and the producer writes where an old one was.
    #[test]
    fn small_chunks_pass_in_order() {
        model(|| {
            let (mut producer, mut consumer, ..) = pair_at(WORDS, 10);
            let chunks = [b"aaaa", b"bbbb", b"cccc", b"dddd"];
            for chunk in &chunks[..2] {
                assert!(producer.try_send(&[*chunk]).unwrap());
            }
            let writer = thread::spawn(move || {
                for chunk in &chunks[2..] {
                    while !producer.try_send(&[*chunk]).unwrap() {
                        thread::yield_now();
                    }
                }
            });
            for expected in chunks {
                assert_eq!(consumer.receive(LONG).unwrap().unwrap(), &expected[..]);
            }
            writer.join().unwrap();
        });
    }

    #[test]
    fn a_consumer_whose_producer_writes_anything_reads_no_more_than_the_ring() {
        model(|| {
            let (_, mut consumer, header, data) = pair_at(WORDS, 0);
            let live = 0xA1A1_A1A1;
            data.word(0).store(8, Ordering::Relaxed);
            data.word(4).store(live, Ordering::Relaxed);
            header.double_word(8208).store(2, Ordering::Relaxed);
            let producer = thread::spawn(move || {
                let write = |memory: &Heap, offset, value| {
                    memory.word(offset).store(value, Ordering::Relaxed);
                };
                write(&data, 0, u32::MAX);
                write(&data, 0, 52);
                write(&data, 16, 53);
                write(&data, 20, live);
                write(&header, 0, WORDS);
                write(&header, 4, u32::MAX);
            });
            for _ in 0..2 {
                match consumer.try_receive() {
                    Ok(chunk) => assert!(chunk.is_some_and(|chunk| chunk.len() <= 52)),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
                assert!(consumer.used() < 64);
            }
            producer.join().unwrap();
        });
    }

    #[test]
    fn a_producer_whose_consumer_writes_anything_stays_in_the_ring() {
        model(|| {
            let (mut producer, _, header, data) = pair_at(WORDS, 13);
            let consumer = thread::spawn(move || {
                for index in [WORDS, u32::MAX, 12] {
                    header.word(4).store(index, Ordering::Relaxed);
                }
                header.word(0).store(u32::MAX, Ordering::Relaxed);
                data.word(56).store(u32::MAX, Ordering::Relaxed);
            });
            for _ in 0..2 {
                match producer.try_send(&[b"payload"]) {
                    Ok(_) => {}
                    Err(error) => assert!(error.to_string().contains("index"), "{error}"),
                }
                assert!(producer.used() < 64);
            }
            consumer.join().unwrap();
        });
    }

    #[test]
    fn each_post_ends_one_wait() {
        model(|| {
            let semaphore = Arc::new(AtomicU64::new(0));
            let waiters = [(); 2].map(|()| {
                let semaphore = Arc::clone(&semaphore);
                thread::spawn(move || assert!(sem::wait(&semaphore, LONG)))
            });
            sem::post(&semaphore, 1);
            sem::post(&semaphore, 1);
            waiters.map(|waiter| waiter.join().unwrap());
            assert_eq!(semaphore.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn a_wait_that_times_out_loses_no_post() {
        model(|| {
            let semaphore = Arc::new(AtomicU64::new(0));
            let poster = Arc::clone(&semaphore);
            let poster = thread::spawn(move || sem::post(&poster, 1));
            let clock = thread::spawn(pass_time);
            let taken = sem::wait(&semaphore, STEP);
            poster.join().unwrap();
            assert_eq!(semaphore.load(Ordering::Relaxed), u64::from(!taken));
            assert_eq!(sem::try_wait(&semaphore), !taken);
            clock.join().unwrap();
        });
    }

    /// The system may wake the waiter whose time is over, and no other for this post.
    #[test]
    fn a_wait_that_times_out_takes_no_wake_up_from_another() {
        model_with(2, || {
            let semaphore = Arc::new(AtomicU64::new(0));
            let wait = |deadline| {
                let semaphore = Arc::clone(&semaphore);
                thread::spawn(move || sem::wait_until(&semaphore, deadline))
            };
            let (hasty, patient) = (wait(now() + STEP), wait(now() + LONG));
            let clock = thread::spawn(pass_time);
            sem::post(&semaphore, 1);
            if hasty.join().unwrap() {
                sem::post(&semaphore, 1);
            }
            assert!(patient.join().unwrap());
            clock.join().unwrap();
            assert_eq!(semaphore.load(Ordering::Relaxed), 0);
        });
    }
}
