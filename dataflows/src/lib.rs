//! The streaming engine: ticks, plans, differential dataflows.
