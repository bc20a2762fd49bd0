//! From a parsed SELECT to an optimized logical plan, with DataFusion.
//!
//! The list of rules is pinned: no rule that hides what the lowering must see (common subexpressions, leaf
//! projections), none that pushes limits or filters into scans. Everything here is synchronous and touches
//! neither a clock nor a catalogue that changes, so the same text gives the same plan.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::common::alias::AliasGenerator;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::planner::ContextProvider;
use datafusion::optimizer::analyzer::Analyzer;
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::eliminate_group_by_constant::EliminateGroupByConstant;
use datafusion::optimizer::eliminate_join::EliminateJoin;
use datafusion::optimizer::eliminate_limit::EliminateLimit;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::propagate_empty_relation::PropagateEmptyRelation;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::rewrite_set_comparison::RewriteSetComparison;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerConfig, OptimizerRule};
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::{Query, Statement};

use crate::PlanScope;
use crate::budget;
use crate::catalog::Catalog;
use crate::error::{SqlError, SqlErrorKind};
use crate::{first_of_each, named_members};

/// Plans a SELECT; the result is analysed and optimized.
pub(crate) fn plan(query: Query, scope: &PlanScope) -> Result<LogicalPlan, SqlError> {
    let catalog = Catalog::of(scope);
    let options = catalog.options();
    let mut parser_options = ParserOptions::from(&options.sql_parser);
    parser_options.collect_spans = true;
    let planned = SqlToRel::new_with_options(&catalog, parser_options)
        .sql_statement_to_plan(Statement::Query(Box::new(query)))
        .map_err(|error| SqlError::planning(&error))?;
    budget::check(&planned)?;
    check_reads(&planned)?;
    let analysed = Analyzer::new()
        .execute_and_check(planned, options, |_, _| {})
        .map_err(|error| SqlError::planning(&error))?;
    let analysed = first_of_each::rewrite(analysed)
        .and_then(named_members::rewrite)
        .map_err(|error| SqlError::planning(&error))?;
    let context = PlanningContext {
        aliases: Arc::new(AliasGenerator::new()),
        options: Arc::new(options.clone()),
    };
    Optimizer::with_rules(rules())
        .optimize(analysed, &context, |_, _| {})
        .map_err(|error| SqlError::planning(&error))
}

/// Refuses what reads nothing. (What reads something whose rows never fulfil the conditions is an empty view.)
fn check_reads(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut reads = false;
    plan.apply_with_subqueries(|node| {
        reads = matches!(node, LogicalPlan::TableScan(_));
        Ok(match reads {
            true => TreeNodeRecursion::Stop,
            false => TreeNodeRecursion::Continue,
        })
    })
    .map_err(|error| SqlError::planning(&error))?;
    match reads {
        true => Ok(()),
        false => Err(SqlError::new(SqlErrorKind::Clause, "VALUES alone is constant")
            .hint("join it with a stream or a view")),
    }
}

/// The pinned rules, in their order.
fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    vec![
        Arc::new(RewriteSetComparison::new()),
        Arc::new(OptimizeUnions::new()),
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(EliminateJoin::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(EliminateFilter::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(EliminateLimit::new()),
        Arc::new(PropagateEmptyRelation::new()),
        Arc::new(EliminateOuterJoin::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(EliminateGroupByConstant::new()),
        Arc::new(OptimizeProjections::new()),
    ]
}

/// The optimizer's surroundings: fresh aliases for every plan, no clock, no session.
#[derive(Debug)]
struct PlanningContext {
    aliases: Arc<AliasGenerator>,
    options: Arc<ConfigOptions>,
}

impl OptimizerConfig for PlanningContext {
    fn query_execution_start_time(&self) -> Option<DateTime<Utc>> {
        None
    }

    fn alias_generator(&self) -> &Arc<AliasGenerator> {
        &self.aliases
    }

    fn options(&self) -> Arc<ConfigOptions> {
        Arc::clone(&self.options)
    }
}
