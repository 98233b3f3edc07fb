//! Any bytes as an ONNX file: they load or are refused, without a panic, in bounded time and
//! memory.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = scdd::graph::Graph::load(bytes);
});
