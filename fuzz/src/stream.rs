//! What a provider streams: its end is known or it is a failure, and how the network cuts it changes
//! nothing.

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use user_api_keys::provider::Provider;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

/// One input.
pub fn run(data: &[u8]) {
    let [choice, pace, answer @ ..] = data else {
        return;
    };
    let writers: Vec<_> = Provider::ALL
        .iter()
        .filter_map(|p| p.facts().writes.as_ref())
        .collect();
    let dialect = writers[usize::from(*choice) % writers.len()].dialect;
    let step = usize::from(*pace) + 1;
    let pieces = answer.chunks(step).map(Bytes::copy_from_slice).collect();
    let whole = vec![Bytes::copy_from_slice(answer)];
    RUNTIME.with(|runtime| {
        let whole = runtime.block_on(generate_content::read_answer(dialect, whole));
        let pieces = runtime.block_on(generate_content::read_answer(dialect, pieces));
        assert_eq!(whole, pieces);
    });
}
