//! Values that processes exchange: large, deeply nested and faulty ones, and memory that is reused.

crate::harness::modules![deep, payloads, reused, values];
