//! Subscriptions, written down frame by frame.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use pyflare_dataflows::{Engine, Event, Frame, SubscribeOptions, ViewName};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::bed::{Content, add_rows};

/// Longer than a frame takes from its tick to the subscriber.
const QUIET: Duration = Duration::from_millis(500);

/// What one subscription received.
pub struct Transcript {
    pub schema: SchemaRef,
    pub frames: Vec<Frame>,
}

impl Transcript {
    /// The content after every tick that changed it, from the first frame on.
    pub fn contents(&self, until: u64) -> BTreeMap<u64, Content> {
        let mut contents = BTreeMap::new();
        let mut content = Content::new();
        let mut last = None;
        for frame in self.frames.iter().filter(|frame| frame.upper <= until + 1) {
            assert_eq!(frame.reset, last.is_none(), "only the first frame is a snapshot");
            assert!(last.is_none_or(|last| last == frame.lower), "frames follow on");
            last = Some(frame.upper);
            if let Some(batch) = &frame.batch {
                add_rows(&self.schema, batch, Some(&frame.diffs), &mut content);
            }
            contents.insert(frame.upper - 1, content.clone());
        }
        contents
    }

    pub fn assert_equals(&self, other: &Transcript, until: u64, what: &str) {
        let changes = |transcript: &Transcript| -> Vec<Frame> {
            let frames = transcript.frames.iter();
            frames
                .filter(|frame| !frame.reset && frame.upper <= until + 1)
                .cloned()
                .collect()
        };
        let (own, others) = (changes(self), changes(other));
        for (own, other) in own.iter().zip(&others) {
            let at = format!("{what}, frame [{}, {})", own.lower, own.upper);
            assert_eq!((own.lower, own.upper), (other.lower, other.upper), "{at}");
            assert_eq!(own.diffs, other.diffs, "{at}");
            assert!(
                own.batch == other.batch,
                "{at}: {:?} and {:?}",
                own.batch,
                other.batch
            );
            assert_eq!(own.resume, other.resume, "{at}");
        }
        assert_eq!(own.len(), others.len(), "{what}: number of frames");
    }
}

/// Subscribes at once and writes down until told to stop.
pub fn follow(
    engine: &Engine,
    name: &ViewName,
    options: SubscribeOptions,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<Transcript> {
    let mut subscription = engine.subscribe(name, options).unwrap();
    tokio::spawn(async move {
        let schema = subscription.schema();
        let mut frames = Vec::new();
        let mut stopping = *stop.borrow();
        loop {
            let event = match stopping {
                false => tokio::select! {
                    event = subscription.next() => event,
                    _ = stop.changed() => {
                        stopping = true;
                        continue;
                    }
                },
                true => match tokio::time::timeout(QUIET, subscription.next()).await {
                    Ok(event) => event,
                    Err(_) => return Transcript { schema, frames },
                },
            };
            match event {
                Event::Frame(frame) => frames.push(frame),
                Event::End { reason } | Event::Refused { reason, .. } => {
                    panic!("the subscription ended: {reason}")
                }
            }
        }
    })
}

/// Everything from a frame on, as it was sent at first.
pub async fn again(engine: &Engine, name: &ViewName, after: &Frame) -> Transcript {
    let options = SubscribeOptions {
        resume: Some(after.resume.clone()),
        every_tick: true,
        ..SubscribeOptions::default()
    };
    let (_stop, stopped) = watch::channel(true);
    let transcript = follow(engine, name, options, stopped).await.unwrap();
    assert!(
        transcript.frames.iter().all(|frame| !frame.reset),
        "the frames of {name} are still there"
    );
    transcript
}
