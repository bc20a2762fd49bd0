//! Any bytes, as any signal in any encoding: the door and the decoder agree, nothing panics, and what was
//! decoded can be selected.
//!
//! `make fuzz` starts from the recorded requests; it needs no nightly compiler.
#![no_main]
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pyflare_operators::decode::{BodyEncoding, Decoder, Origin, OtlpSignal, check, select};
use pyflare_operators::fields::stream_fields;

fuzz_target!(|body: &[u8]| {
    let body = Bytes::copy_from_slice(body);
    let origin = Origin {
        project: "fuzz",
        received_us: 1,
        tick: 2,
        mark_us: None,
        partition: 0,
        offset: 0,
    };
    for signal in [OtlpSignal::Traces, OtlpSignal::Logs, OtlpSignal::Metrics] {
        for encoding in [BodyEncoding::Protobuf, BodyEncoding::Json] {
            let checked = check(signal, encoding, &body);
            let mut decoder = Decoder::new(signal);
            let decoded = decoder.decode(&origin, encoding, &body);
            assert_eq!(checked.is_ok(), decoded.is_ok());
            if let (Ok(checked), Ok(decoded)) = (checked, decoded) {
                assert_eq!(
                    (checked.rows, checked.rejected),
                    (decoded.rows.into(), decoded.rejected.into())
                );
            }
            let batch = decoder.finish().expect("the rows make a batch");
            let columns: Vec<&str> = stream_fields(signal.stream())
                .into_iter()
                .flatten()
                .map(|field| field.name)
                .collect();
            select(signal.stream(), &batch, &columns).expect("every column can be selected");
        }
    }
});
