//! Tests of the decoder.

mod address;
mod compare;
mod expected;
mod samples;
