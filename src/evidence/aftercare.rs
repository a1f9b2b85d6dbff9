//! What follows once a bundle is whole: the limits of retention are kept, and its copy is made. Never waited for.

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::sync::Semaphore;
use tracing::warn;

use super::{capture::chain, copy::Copier, disk, retention};
use crate::{metrics::Metrics, model::settings::EvidenceSettings};

/// How long deleting what exceeds the limits is watched; a disk that takes longer goes on by itself.
const PRUNE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Keeps limits and makes copies; cheap to clone.
#[derive(Clone, Debug)]
pub struct Aftercare {
    incidents: PathBuf,
    settings: Arc<EvidenceSettings>,
    copier: Option<Copier>,
    /// One pruning at a time: what comes meanwhile waits for its turn.
    turn: Arc<Semaphore>,
}

impl Aftercare {
    /// Starts copying what lies there already, where a copy is configured; needs a runtime then.
    #[must_use]
    pub fn start(incidents: PathBuf, settings: EvidenceSettings, metrics: Metrics) -> Self {
        let copy = settings.copy.clone();
        Self {
            copier: copy.map(|copy| Copier::start(incidents.clone(), copy, metrics)),
            settings: Arc::new(settings),
            turn: Arc::new(Semaphore::new(1)),
            incidents,
        }
    }

    /// Tells that a bundle became whole, or changed. Never waits; needs a runtime.
    pub fn whole(&self, now: Timestamp) {
        if let Some(copier) = &self.copier {
            copier.nudge();
        }
        let (incidents, settings, turn) = (self.incidents.clone(), Arc::clone(&self.settings), Arc::clone(&self.turn));
        tokio::spawn(async move {
            let folder = incidents.clone();
            let enforced = disk::bounded(&turn, PRUNE_TIMEOUT, "prune", folder, move || {
                retention::enforce(&incidents, &settings, now)
            });
            if let Err(error) = enforced.await {
                warn!(why = chain(&error), "Evidence is not pruned");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        evidence::made::{Shelf, later},
        model::settings::{CopySettings, Retention},
    };

    #[tokio::test]
    async fn a_whole_bundle_is_copied_and_makes_an_older_one_go() {
        let shelf = Shelf::new();
        let copies = shelf.beside("copies");
        let url = format!("file://{}", copies.display()).parse().expect("a URL");
        let settings = EvidenceSettings {
            retention: Retention {
                count: 1,
                ..Retention::default()
            },
            copy: Some(CopySettings {
                url,
                options: BTreeMap::new(),
            }),
            ..EvidenceSettings::default()
        };
        let aftercare = Aftercare::start(shelf.incidents.clone(), settings, Metrics::new().expect("registers"));
        let patient = |done: &dyn Fn() -> bool| {
            let done = done();
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                done
            }
        };
        let limit = tokio::time::Instant::now() + Duration::from_secs(60);
        for hour in 0..2 {
            let folder = shelf.bundle("web", hour, 10);
            let copy = copies.join(folder.file_name().expect("a name")).join(disk::MANIFEST);
            aftercare.whole(later(hour));
            while !patient(&|| copy.exists()).await {
                assert!(tokio::time::Instant::now() < limit, "no copy");
            }
        }
        // The older one awaited its copy: told again, it goes.
        while !patient(&|| shelf.names() == ["shop.web_20261121T051234.567Z"]).await {
            assert!(tokio::time::Instant::now() < limit, "{:?}", shelf.names());
            aftercare.whole(later(2));
        }
    }
}
