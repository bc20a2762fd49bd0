//! Which dataflows a tick touches, agreed among all workers.
//!
//! A dataflow whose inputs move makes every worker talk to every other one, rows or not; a thousand monitors that
//! nobody feeds would keep a core busy. So each worker tells the others which dataflows it has rows for, over one
//! dataflow of their own, and the inputs of all others stay where they are: without rows nothing happens in them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::InputHandleVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Input;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::probe::{Handle as ProbeHandle, Probe};
use timely::dataflow::operators::vec::Broadcast;
use timely::worker::Worker;

use super::stepping::{PeerFailed, Stepping};

/// Ids by the round in which they were told.
type Told = Rc<RefCell<BTreeMap<u64, BTreeSet<u64>>>>;

/// The input, of pairs (round, id), and the probe behind the exchange.
type Exchange = (InputHandleVec<u64, (u64, u64)>, ProbeHandle<u64>);

pub(super) struct Activity {
    /// `None` for a worker without peers.
    exchange: Option<Exchange>,
    told: Told,
    round: u64,
}

impl Activity {
    pub fn build(worker: &mut Worker) -> Activity {
        let told = Told::default();
        let exchange = (worker.peers() > 1).then(|| {
            let told = Rc::clone(&told);
            worker.dataflow_named("activity", |scope| {
                let (input, stream) = scope.new_input::<Vec<(u64, u64)>>();
                let probe = ProbeHandle::new();
                stream
                    .broadcast()
                    .unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(
                        Pipeline,
                        "collect",
                        move |_capability, _info| {
                            move |input, _output| {
                                input.for_each(|_capability, pairs| {
                                    let mut told = told.borrow_mut();
                                    for (round, id) in pairs.drain(..) {
                                        told.entry(round).or_default().insert(id);
                                    }
                                });
                            }
                        },
                    )
                    .probe_with(&probe);
                (input, probe)
            })
        });
        Activity {
            exchange,
            told,
            round: 0,
        }
    }

    /// All ids that any worker names. Every worker must ask equally often.
    pub fn agree(
        &mut self,
        stepping: &mut Stepping<'_>,
        own: BTreeSet<u64>,
    ) -> Result<BTreeSet<u64>, PeerFailed> {
        let Some((input, probe)) = &mut self.exchange else {
            return Ok(own);
        };
        let round = self.round;
        self.round += 1;
        for id in own {
            input.send((round, id));
        }
        input.advance_to(round + 1);
        input.flush();
        stepping.until(|| !probe.less_equal(&round))?;
        Ok(self.told.borrow_mut().remove(&round).unwrap_or_default())
    }
}
