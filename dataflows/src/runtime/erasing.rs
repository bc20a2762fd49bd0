//! How erasures are done: from the wish to the tick at which their rows leave all views, and the store after that.
//!
//! A wish waits until everything that was durable when it came is admitted, so that it means what its author has sent. Then
//! its rows are read back beside the dataflow ([`super::backfill`]), and what they added to the bases is subtracted at one
//! tick. One erasure is subtracted after the other: a row that two of them name goes once.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyflare_connectors::faults::{self, Step};
use tokio::sync::oneshot;

use super::EngineError;
use super::backfill::ReadJob;
use super::coordinator::{Coordinator, Pending};
use super::engine::Engine;
use super::erasure::{Erased, ErasureBy, ErasureStatus, ErasureSubject, Erasures, Request};
use super::messages::{AppliedCommand, ToCoordinator, ToWorker};
use super::rewriting::{EndedUntil, Rewrites, note_ended, rewrites};
use super::streams::{Marks, StreamId};
use super::sums::{Seed, Sums};
use super::views::InstalledView;
use crate::time::{Tick, now_ms};

/// Where wishes are kept in the catalog until they are commands.
const WISHES: &str = "erasures/";

/// Panes that end so soon, microseconds, are counted among those that have ended, since reading takes a while.
const FIRST_SLACK_US: i64 = 600_000_000;

/// After an erasure limits do not hold for so long.
const SETTLING_MS: Tick = 5_000;

/// An erasure whose rows are read.
pub(crate) struct Erasing {
    pub request: Request,
    pub sums: Sums,
    /// Until when panes are expected to have ended by then.
    pub ended: EndedUntil,
    /// The whole groups of such panes.
    pub whole: Option<Sums>,
    /// Whether all of them could be read.
    pub is_complete: bool,
    /// How far panes are looked ahead, microseconds.
    slack_us: i64,
}

/// What is not done yet.
#[derive(Default)]
pub(crate) struct ErasureQueue {
    pub known: Arc<Erasures>,
    /// Waiting until the log is admitted as far as it was.
    wished: Vec<Wish>,
    /// Ready to be subtracted.
    read: VecDeque<Erasing>,
    /// Those whose rows the store was told to forget.
    removing: BTreeSet<u64>,
    /// When the last one was subtracted.
    subtracted_at: Option<Tick>,
}

/// What is wanted once the log is admitted as far as it was.
struct Wish {
    /// Where the partitions of the log ended.
    ends: Vec<u64>,
    wanted: Wanted,
}

enum Wanted {
    Answer(oneshot::Sender<()>),
    Erasure(ErasureSubject, oneshot::Sender<Result<u64, EngineError>>),
}

impl ErasureQueue {
    pub fn of(known: Arc<Erasures>) -> ErasureQueue {
        ErasureQueue {
            known,
            ..ErasureQueue::default()
        }
    }

    /// Whether the next tick can subtract one.
    pub fn is_ready(&self) -> bool {
        !self.read.is_empty()
    }

    /// Until then operators may keep more than there is: what an erasure took is merged with what it was taken from.
    pub fn settles_until(&self) -> Tick {
        self.subtracted_at.map_or(0, |at| at + SETTLING_MS)
    }

    pub fn take_read(&mut self, erasing: Erasing) {
        self.read.push_back(erasing);
    }
}

impl Coordinator {
    /// Takes a wish.
    pub(super) fn prepare_erasure(
        &mut self,
        subject: ErasureSubject,
        reply: oneshot::Sender<Result<u64, EngineError>>,
    ) {
        let refused = |detail: &str| {
            Err(EngineError::Erasure {
                detail: detail.into(),
            })
        };
        let answer = match (&self.past, subject.by) {
            (None, _) => refused("rows are not stored (store.url), so they cannot be found again"),
            (_, ErasureBy::Project) if !subject.values.is_empty() => {
                refused("a project is erased as a whole; leave the values out")
            }
            (_, ErasureBy::User | ErasureBy::Session | ErasureBy::Trace) if subject.values.is_empty() => {
                refused("name at least one user, session or trace")
            }
            _ => Ok(()),
        };
        match answer {
            Ok(()) => {
                let ends = self.admission.ends();
                let wanted = Wanted::Erasure(subject, reply);
                self.erasing.wished.push(Wish { ends, wanted });
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Answers once what is durable now is admitted.
    pub(super) fn answer_admitted(&mut self, reply: oneshot::Sender<()>) {
        let ends = self.admission.ends();
        let wanted = Wanted::Answer(reply);
        self.erasing.wished.push(Wish { ends, wanted });
    }

    /// Has the store forget what no start can need any more.
    fn remove_erased(&mut self, pending: &mut Vec<Pending>) {
        let (Some(flusher), Some(checkpoints)) = (&self.flusher, &self.checkpoints) else {
            return;
        };
        let removed = std::mem::take(&mut *flusher.state.removed.lock());
        pending.extend(removed.into_iter().map(Pending::EraseDone));
        let oldest = checkpoints.state.oldest.load(Ordering::Acquire);
        for erased in self.erasing.known.erased() {
            let is_due = !erased.is_removed && erased.at <= oldest;
            if is_due && self.erasing.removing.insert(erased.request.id) {
                let known = self.views.all().iter().map(|view| view.changes_table()).collect();
                flusher.remove(erased, known);
            }
        }
    }

    /// Begins what can be begun.
    pub(super) fn advance_erasures(&mut self, pending: &mut Vec<Pending>) {
        self.remove_erased(pending);
        let admitted = |wish: &mut Wish| self.admission.has_passed(&wish.ends);
        let begun: Vec<Wish> = self.erasing.wished.extract_if(.., admitted).collect();
        for wish in begun {
            match wish.wanted {
                Wanted::Answer(reply) => drop(reply.send(())),
                Wanted::Erasure(subject, reply) => drop(reply.send(self.begin_erasure(subject))),
            }
        }
    }

    /// From here on a crash does not forget it.
    fn begin_erasure(&mut self, subject: ErasureSubject) -> Result<u64, EngineError> {
        let request = Request {
            id: self.next_view_id,
            subject,
            until: self.last_tick,
            asked_at: now_ms(),
        };
        let wish = serde_json::to_vec(&request).expect("invariant: a request has text keys only");
        self.catalog
            .put(&wish_key(request.id), &wish)
            .map_err(|error| EngineError::Erasure {
                detail: format!("the wish could not be kept ({error})"),
            })?;
        faults::at(Step::ErasureAsked);
        self.next_view_id += 1;
        let id = request.id;
        self.erasing.known.ask(&request);
        self.read_for(request, FIRST_SLACK_US)?;
        Ok(id)
    }

    fn read_for(&self, request: Request, slack_us: i64) -> Result<(), EngineError> {
        let installed = self.views.all();
        let sums = Sums::taking_back(&request, &installed, self.erasing.known.erased());
        let now = (self.last_tick, &*self.admission.marks());
        let erasing = Erasing {
            request,
            sums,
            ended: EndedUntil::expected(&installed, now, slack_us, &|stream| self.kept_us(stream)),
            whole: None,
            is_complete: false,
            slack_us,
        };
        self.read(erasing)
    }

    fn read(&self, erasing: Erasing) -> Result<(), EngineError> {
        self.to_reader
            .send(ReadJob::Erasure(Box::new(erasing)))
            .map_err(|_| EngineError::Closed)
    }

    /// The erasure that is subtracted at `tick`, after the commands before it: one whose rows are all read.
    pub(super) fn erasure_at(
        &mut self,
        (tick, marks): (Tick, &Marks),
        before: &[AppliedCommand],
    ) -> Result<Option<AppliedCommand>, EngineError> {
        let Some(mut erasing) = self.erasing.read.pop_front() else {
            return Ok(None);
        };
        let installed = self.installed_with(before);
        // A view has come whose past was read meanwhile, or another erasure has taken some of the rows.
        let is_current = erasing.sums.covers(&installed, erasing.request.until)
            && erasing.sums.erasures() == self.erasing.known.count();
        let (true, Some(mut whole)) = (erasing.is_complete && is_current, erasing.whole.take()) else {
            self.read_for(erasing.request, erasing.slack_us)?;
            return Ok(None);
        };
        if !whole.is_empty() && self.tail.flushed() > Some(whole.upto()) {
            // Some of the rest has left the memory meanwhile.
            erasing.whole = Some(whole);
            self.read(erasing)?;
            return Ok(None);
        }
        let Erasing {
            request,
            sums,
            slack_us,
            ..
        } = erasing;
        self.complete(&mut whole, tick)?;
        let rows = sums.rows();
        let shares = self.shares(&request, sums, whole, &installed, (tick, marks), None);
        let Some((shares, let_go)) = shares else {
            // Panes have ended meanwhile that were not expected to.
            self.read_for(request, slack_us.saturating_mul(4))?;
            return Ok(None);
        };
        self.subtract(shares);
        // Trimming shall not wait until the files that have the rows are full.
        self.log.seal();
        Ok(Some(AppliedCommand::Erase(Erased {
            request,
            at: tick,
            rows,
            let_go,
            is_removed: false,
        })))
    }

    /// Adds the newest ticks to whole groups.
    fn complete(&self, whole: &mut Sums, tick: Tick) -> Result<(), EngineError> {
        match &self.past {
            Some(past) if !whole.is_empty() => past.add_until(whole, tick - 1, &|_, _| Ok(())),
            _ => Ok(()),
        }
    }

    /// What each worker's bases lose at the tick, and what stores are told; also the views whose past is let go of, which
    /// `let_go` may say already. `None`: the whole of a group is not known.
    fn shares(
        &self,
        request: &Request,
        sums: Sums,
        mut whole: Sums,
        installed: &[Arc<InstalledView>],
        (tick, marks): (Tick, &Marks),
        let_go: Option<&[u64]>,
    ) -> Option<(Vec<Vec<Seed>>, Vec<u64>)> {
        let at = (tick, marks, &*self.previous_marks);
        let (mut shares, taken) = sums.retractions(at, self.workers.len());
        let kept_us = |stream| self.kept_us(stream);
        let Rewrites { changes, renewed } = rewrites(
            &taken,
            &mut whole,
            installed,
            (tick, &request.subject.project, &kept_us),
            let_go,
        )?;
        // What is let go of is not computed again later.
        for view in installed.iter().filter(|view| renewed.contains(&view.id)) {
            note_ended(view, installed, marks, tick);
        }
        // Each worker knows its share of what a view shows.
        for seed in shares.iter_mut().filter_map(|seeds| seeds.first_mut()) {
            seed.rewrites.renewed.clone_from(&renewed);
        }
        if let Some(seed) = shares.first_mut().and_then(|seeds| seeds.first_mut()) {
            seed.rewrites.changes = changes;
        }
        Some((shares, renewed))
    }

    fn subtract(&self, shares: Vec<Vec<Seed>>) {
        for (worker, seeds) in shares.into_iter().enumerate() {
            self.workers.send(worker, ToWorker::Seed(seeds));
        }
    }

    /// Subtracts what a logged command says.
    pub(super) fn replay_erasure(
        &self,
        erased: &Erased,
        before: &[AppliedCommand],
    ) -> Result<(), EngineError> {
        let past = self.past.as_ref().ok_or_else(|| EngineError::Erasure {
            detail: "rows were erased, and are not stored here any more (store.url)".into(),
        })?;
        let (request, tick) = (&erased.request, erased.at);
        let installed = self.installed_with(before);
        let mut sums = Sums::taking_back(request, &installed, self.erasing.known.erased());
        past.add_until(&mut sums, request.until, &|_, _| Ok(()))?;
        let marks = self.admission.marks();
        let ended = EndedUntil::expected(&installed, (tick, &marks), 0, &|stream| self.kept_us(stream));
        let mut whole = sums.whole(&ended);
        self.complete(&mut whole, tick)?;
        let at = (tick, &*marks);
        let shares = self.shares(request, sums, whole, &installed, at, Some(&erased.let_go));
        let (shares, _) = shares.ok_or_else(|| EngineError::Erasure {
            detail: "panes that ended by its tick are not those that ended then".into(),
        })?;
        self.subtract(shares);
        Ok(())
    }

    /// How long the rows of a stream are stored, microseconds, if not for ever.
    fn kept_us(&self, stream: StreamId) -> Option<i64> {
        let past = self.past.as_ref()?;
        self.streams.retention_us(stream).or(past.retention_us)
    }

    /// From the tick on nobody sees the rows.
    pub(super) fn note_erased(&mut self, erased: &Erased) {
        self.erasing.known.add(erased.clone());
        self.erasing.subtracted_at = Some(erased.at);
        self.forget_wish(erased.request.id);
        if let Some(checkpoints) = &mut self.checkpoints {
            checkpoints.renew();
        }
    }

    /// The store has none of the rows any more.
    pub(super) fn note_removed(&mut self, id: u64) {
        self.erasing.known.remove(id);
    }

    /// After a start: what was wished before and is not done.
    pub(super) fn resume_erasures(&mut self) -> Result<(), EngineError> {
        let failed = |detail: String| EngineError::Start { detail };
        let wishes = self
            .catalog
            .list(WISHES)
            .map_err(|error| failed(error.to_string()))?;
        for (key, wish) in wishes {
            let request: Request = serde_json::from_slice(&wish)
                .map_err(|error| failed(format!("the catalog's entry {key} cannot be read: {error}")))?;
            self.next_view_id = self.next_view_id.max(request.id + 1);
            if self.erasing.known.contains(request.id) {
                self.forget_wish(request.id);
                continue;
            }
            self.erasing.known.ask(&request);
            self.read_for(request, FIRST_SLACK_US)?;
        }
        Ok(())
    }

    fn forget_wish(&self, id: u64) {
        if let Err(error) = self.catalog.delete(&wish_key(id)) {
            tracing::warn!(%error, erasure = id, "the catalog could not be written; the tick log has the erasure");
        }
    }
}

impl Engine {
    /// Takes back the rows that the subject names and that are durable now: out of every view, and out of history, at one
    /// tick soon. Answered with the erasure's id once a crash cannot forget it.
    pub async fn erase(&self, subject: ErasureSubject) -> Result<u64, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(ToCoordinator::Erase {
            subject: Box::new(subject),
            reply,
        })?;
        answer.await.map_err(|_| EngineError::Closed)?
    }

    /// Waits until all that is durable now is admitted, and complete.
    pub async fn admitted(&self) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        self.ask(ToCoordinator::Admitted { reply })?;
        answer.await.map_err(|_| EngineError::Closed)?;
        self.wait_complete(self.status().tick).await;
        Ok(())
    }

    /// All erasures, those that are not done first.
    pub fn erasures(&self) -> Vec<ErasureStatus> {
        self.shared.erasures.all()
    }

    /// Which rows of streams nobody sees any more although the store may have them.
    pub fn hidden(&self) -> Vec<(ErasureSubject, Tick)> {
        let erased = self.shared.erasures.erased();
        let hidden = erased.iter().filter(|erased| !erased.is_removed);
        hidden
            .map(|erased| (erased.request.subject.clone(), erased.request.until))
            .collect()
    }
}

fn wish_key(id: u64) -> String {
    format!("{WISHES}{id:020}")
}
