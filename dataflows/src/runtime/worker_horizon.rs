//! Until when a tick without rows changes nothing on one worker.

use super::messages::Horizon;
use super::worker_views::Views;

impl Views {
    pub fn horizon(&mut self) -> Horizon {
        let mut horizon = Horizon::NEVER;
        for base in self.bases.values_mut() {
            let open = base
                .closing
                .as_ref()
                .and_then(|closing| base.arranged.next_pane(closing.now));
            if let Some(open) = open {
                horizon.observe(base.stream, base.base.rule.closes_at(open));
            }
            let lowest = base.arranged.lowest_pane();
            match base.base.rule.by_tick {
                true => horizon.tick = horizon.tick.min(lowest),
                false => horizon.observe(base.stream, base.base.rule.leaves_at(lowest)),
            }
            horizon.tick = horizon.tick.min(base.tap.next_appearance());
        }
        for view in self.views.values().filter(|view| !view.is_over()) {
            let awaited = view.graph.iter().flat_map(|graph| graph.running.awaited());
            for (leaf, end) in awaited {
                let base = &self.bases[&view.leaves[leaf].base];
                horizon.observe(base.stream, base.base.rule.closes_at(end));
            }
        }
        horizon
    }
}
