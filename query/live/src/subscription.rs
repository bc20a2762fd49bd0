//! One subscription of one socket: opened from a view or a query, pumped until it ends.
//!
//! The pump is the only place that waits on the engine. A query's monitor is dropped on every way out, because the
//! pump is told to stop and never aborted.

use std::sync::Arc;
use std::time::Instant;

use pyflare_history::encode::Int64Mode;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::frames::{Pacer, encode, last_of_each_key};
use crate::protocol::{
    Envelope, Int64Format, Subscribe, column_infos, end_message, error_message, schema_message,
};
use crate::service::{LiveCounters, Shared};
use crate::socket::{Outbound, Outgoing};
use crate::views::{Event, Frame, SubscribeOptions, Subscription, View, ViewName};
use crate::{Failure, FailureKind, Scope};

/// Begins the names of monitors that belong to a subscription.
pub(crate) const TEMPORARY_PREFIX: &str = "live_query_";

/// Runs a subscription to its end and reports what the client must know. Returns the id.
pub(crate) async fn run(
    shared: Arc<Shared>,
    scope: Scope,
    request: Subscribe,
    outbound: Outbound,
    stop: oneshot::Receiver<()>,
) -> String {
    let id = request.id.clone();
    LiveCounters::add(&shared.counters.subscriptions, 1);
    let mut stop = stop;
    // Never raced against `stop`: installing a monitor cannot be taken back half-way.
    let message = match Opened::open(&shared, &scope, &request).await {
        Ok(mut opened) => {
            let ended = opened.pump(&shared, &request, &outbound, &mut stop).await;
            if let Some(temporary) = opened.temporary.take() {
                drop(opened);
                shared.views.drop_temporary(&temporary).await;
            }
            match ended {
                Ended::Told(reason) => end_message(&id, &reason),
                Ended::Refused(failure) => error_message(Some(&id), &failure),
                Ended::Gone => return id,
            }
        }
        Err(failure) => error_message(Some(&id), &failure),
    };
    // A client that is gone cannot be told; its socket ends by itself.
    let _ = outbound.send(Outgoing::text(message)).await;
    id
}

enum Ended {
    Told(String),
    Refused(Failure),
    /// The socket is closing: nobody listens.
    Gone,
}

struct Opened {
    subscription: Box<dyn Subscription>,
    temporary: Option<ViewName>,
}

impl Opened {
    async fn open(shared: &Shared, scope: &Scope, request: &Subscribe) -> Result<Opened, Failure> {
        match (&request.view, &request.sql) {
            (Some(view), None) => Opened::view(shared, scope, request, view),
            (None, Some(sql)) => Opened::query(shared, scope, request, sql).await,
            _ => Err(Failure::new(
                FailureKind::Invalid,
                "PF-5019",
                "give either \"view\" or \"sql\", and not both",
            )),
        }
    }

    fn view(shared: &Shared, scope: &Scope, request: &Subscribe, name: &str) -> Result<Opened, Failure> {
        let plain = name.strip_prefix("live.").unwrap_or(name);
        let project = scope.project.as_deref();
        let view = shared
            .views
            .view(project, plain)
            .filter(|view| view.visible_to(project) && !view.temporary);
        let Some(view) = view else {
            let known = shared.views.views();
            let known = known
                .iter()
                .filter(|view| view.visible_to(project) && !view.temporary);
            return Err(Failure::unknown_view(
                plain,
                known.map(|view| view.name.name.as_str()),
            ));
        };
        let options = SubscribeOptions {
            snapshot: request.snapshot,
            // Always asked for: it lets held-back ticks be merged, and keeps the resume token young.
            progress: true,
            resume: request.resume.clone(),
            as_of: request.as_of,
            up_to: request.up_to,
            closed_windows: request.envelope == Envelope::Final,
            project: narrowed(&view, scope),
        };
        let subscription = shared.views.subscribe(&view.name, options)?;
        Ok(Opened {
            subscription,
            temporary: None,
        })
    }

    /// A query's monitor starts with its subscription, so a token of an earlier one means nothing here.
    async fn query(
        shared: &Shared,
        scope: &Scope,
        request: &Subscribe,
        sql: &str,
    ) -> Result<Opened, Failure> {
        if request.as_of.is_some() {
            return Err(Failure::new(
                FailureKind::Invalid,
                "PF-5022",
                "a query's monitor begins with its subscription, so \"as_of\" is for views",
            ));
        }
        let name = format!("{TEMPORARY_PREFIX}{}", Uuid::new_v4().simple());
        let view = shared.views.install_temporary(scope.owner(), &name, sql).await?;
        let temporary = view.name.clone();
        let options = SubscribeOptions {
            snapshot: request.snapshot,
            progress: true,
            resume: None,
            as_of: None,
            up_to: request.up_to,
            closed_windows: request.envelope == Envelope::Final,
            project: narrowed(&view, scope),
        };
        match shared.views.subscribe(&view.name, options) {
            Ok(subscription) => Ok(Opened {
                subscription,
                temporary: Some(temporary),
            }),
            Err(failure) => {
                shared.views.drop_temporary(&temporary).await;
                Err(failure)
            }
        }
    }

    async fn pump(
        &mut self,
        shared: &Shared,
        request: &Subscribe,
        outbound: &Outbound,
        stop: &mut oneshot::Receiver<()>,
    ) -> Ended {
        if request.envelope == Envelope::Upsert && self.subscription.key().is_empty() {
            return Ended::Refused(Failure::new(
                FailureKind::Invalid,
                "PF-5023",
                "no column is a key here, so there is nothing to upsert by; leave \"envelope\" out, or subscribe to a \
                 GROUP BY that shows its keys",
            ));
        }
        let key = self.subscription.key().to_vec();
        let columns = column_infos(&self.subscription.schema(), self.subscription.key());
        if outbound
            .send(Outgoing::text(schema_message(&request.id, &columns)))
            .await
            .is_err()
        {
            return Ended::Gone;
        }
        let mut pacer = Pacer::new(request.progress);
        loop {
            let deadline = pacer.deadline();
            let frame = tokio::select! {
                stopped = &mut *stop => {
                    return if stopped.is_ok() { Ended::Told("unsubscribed".to_string()) } else { Ended::Gone };
                }
                event = self.subscription.next() => match event {
                    Event::Frame(frame) => pacer.push(frame, Instant::now()),
                    Event::End { reason } => return Ended::Told(reason),
                    Event::Refused(failure) => return Ended::Refused(failure),
                },
                () = sleep_until(deadline), if deadline.is_some() => pacer.flush(Instant::now()),
            };
            let Some(mut frame) = frame else { continue };
            if request.envelope == Envelope::Upsert {
                last_of_each_key(&mut frame, &key);
            }
            if frame.diffs.len() > shared.limits.frame_rows {
                return Ended::Refused(Failure::new(
                    FailureKind::TooLarge,
                    "PF-5020",
                    format!(
                        "a frame of {} rows is above the limit of {}; subscribe to a query that returns fewer rows",
                        frame.diffs.len(),
                        shared.limits.frame_rows
                    ),
                ));
            }
            let sent = tokio::select! {
                sent = send_frame(shared, request, outbound, frame) => sent,
                stopped = &mut *stop => {
                    return if stopped.is_ok() { Ended::Told("unsubscribed".to_string()) } else { Ended::Gone };
                }
            };
            if sent.is_err() {
                return Ended::Gone;
            }
        }
    }
}

/// Waits for room before the rows become text, so that a slow client costs one batch per subscription and not text.
async fn send_frame(
    shared: &Shared,
    request: &Subscribe,
    outbound: &Outbound,
    frame: Frame,
) -> Result<(), mpsc::error::SendError<Outgoing>> {
    let size = frame
        .batch
        .as_ref()
        .map_or(0, |batch| batch.get_array_memory_size());
    let room = outbound.room(size).await;
    let int64 = match request.int64 {
        Int64Format::Number => Int64Mode::Number,
        Int64Format::String => Int64Mode::String,
    };
    let text = encode(&request.id, &frame, int64);
    let counters = &shared.counters;
    LiveCounters::add(&counters.frames, 1);
    LiveCounters::add(&counters.rows, frame.diffs.len() as u64);
    if frame.reset {
        LiveCounters::add(&counters.resets, 1);
    }
    outbound.send(Outgoing { text, _room: room }).await
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Built-in views hold every project's rows.
fn narrowed(view: &View, scope: &Scope) -> Option<String> {
    if view.builtin() {
        scope.project.clone()
    } else {
        None
    }
}
