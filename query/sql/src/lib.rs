//! The monitor language: parsing, planning with DataFusion, lowering to Plan.
