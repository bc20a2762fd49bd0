//! The rows of some ticks, read back.

use arrow::array::RecordBatch;
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, lit};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::StreamExt;
use pyflare_connectors::RowRange;

use crate::scan::StoredTable;

const TICK: &str = "_tick";

/// One batch after the other, on the calling thread, so that nothing piles up where the receiver is slower.
pub async fn read(
    table: StoredTable,
    range: RowRange<'_>,
    visit: &mut (dyn FnMut(RecordBatch) -> bool + Send),
) -> Result<()> {
    let name_of = |name: &str| Expr::Column(Column::new_unqualified(name));
    let bound = |tick: u64| lit(i64::try_from(tick).unwrap_or(i64::MAX));
    let config = SessionConfig::new().with_target_partitions(1);
    let wanted = name_of(TICK)
        .gt(bound(range.after))
        .and(name_of(TICK).lt_eq(bound(range.until)));
    let columns: Vec<Expr> = range.columns.iter().map(|name| name_of(name)).collect();
    let mut batches = SessionContext::new_with_config(config)
        .read_table(std::sync::Arc::new(table))?
        .filter(wanted)?
        .select(columns)?
        .execute_stream()
        .await?;
    while let Some(batch) = batches.next().await {
        if !visit(batch?) {
            break;
        }
    }
    Ok(())
}
