//! Tests of the handler.

mod codes;
mod cpuid;
mod devices;
mod fetch;
mod host;
mod mock;
mod pages;
mod privilege;
mod registers;
mod strings;
