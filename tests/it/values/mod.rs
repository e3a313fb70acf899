//! Values between the processes: large, deep, broken, and reused memory.

crate::harness::modules![deep, payloads, reused, values];
