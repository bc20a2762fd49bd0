//! Erasures: the engine behind the trait that the REST API asks for.

use async_trait::async_trait;
use pyflare_dataflows::{Engine, ErasureBy, ErasureStage, ErasureStatus, ErasureSubject};
use pyflare_live as live;
use pyflare_rest as rest;

use super::adapters::engine_failure;

/// Erasures for the REST API.
pub struct EngineErasures(pub Engine);

#[async_trait]
impl rest::Erasures for EngineErasures {
    fn erasures(&self, scope: &live::Scope) -> Vec<rest::Erasure> {
        let all = self.0.erasures().into_iter();
        let seen = all.filter(|erasure| match &scope.project {
            Some(project) => erasure.subject.project == *project,
            None => true,
        });
        seen.map(described).collect()
    }

    async fn admitted(&self) -> Result<(), live::Failure> {
        self.0.admitted().await.map_err(|error| engine_failure(&error))
    }

    async fn erase(
        &self,
        scope: &live::Scope,
        by: rest::ErasureBy,
        values: Vec<String>,
    ) -> Result<u64, live::Failure> {
        let subject = ErasureSubject {
            project: scope.owner().to_string(),
            by: match by {
                rest::ErasureBy::Project => ErasureBy::Project,
                rest::ErasureBy::User => ErasureBy::User,
                rest::ErasureBy::Session => ErasureBy::Session,
                rest::ErasureBy::Trace => ErasureBy::Trace,
            },
            values,
        };
        self.0
            .erase(subject)
            .await
            .map_err(|error| engine_failure(&error))
    }
}

fn described(erasure: ErasureStatus) -> rest::Erasure {
    rest::Erasure {
        id: erasure.id,
        project: erasure.subject.project,
        by: match erasure.subject.by {
            ErasureBy::Project => rest::ErasureBy::Project,
            ErasureBy::User => rest::ErasureBy::User,
            ErasureBy::Session => rest::ErasureBy::Session,
            ErasureBy::Trace => rest::ErasureBy::Trace,
        },
        values: erasure.subject.values,
        stage: match erasure.stage {
            ErasureStage::Reading => rest::ErasureStage::Reading,
            ErasureStage::Retracted => rest::ErasureStage::Retracted,
            ErasureStage::Removed => rest::ErasureStage::Removed,
        },
        rows: erasure.rows,
        asked_at: erasure.asked_at,
        until: erasure.until,
        retracted_at: erasure.retracted_at,
    }
}
