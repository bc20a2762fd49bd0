//! Lists that are served page by page: `?limit=&cursor=`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::Problem;

pub(crate) const MOST_ITEMS: usize = 1_000;
const DEFAULT_ITEMS: usize = 100;

/// Where to go on and how far.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Items of a page, at most 1000; default 100.
    #[param(maximum = 1000, minimum = 1)]
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    pub items: Vec<T>,
    /// Where the next page begins; null on the last one.
    pub next_cursor: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Place(String, Option<String>);

/// The page of `all`, which is sorted by (name, project).
pub(crate) fn page<T>(
    mut all: Vec<T>,
    page: &Page,
    place: impl Fn(&T) -> (String, Option<String>),
) -> Result<List<T>, Problem> {
    let limit = limit(page.limit)?;
    if let Some(cursor) = &page.cursor {
        let after = decode(cursor)?;
        all.retain(|item| {
            let (name, project) = place(item);
            Place(name, project) > after
        });
    }
    let more = all.len() > limit;
    all.truncate(limit);
    let next_cursor = match all.last() {
        Some(last) if more => {
            let (name, project) = place(last);
            let text =
                serde_json::to_vec(&Place(name, project)).map_err(|error| Problem::internal(&error))?;
            Some(URL_SAFE_NO_PAD.encode(text))
        }
        _ => None,
    };
    Ok(List {
        items: all,
        next_cursor,
    })
}

pub(crate) fn limit(limit: Option<usize>) -> Result<usize, Problem> {
    match limit {
        None => Ok(DEFAULT_ITEMS),
        Some(limit @ 1..=MOST_ITEMS) => Ok(limit),
        Some(limit) => Err(Problem::bad_request(
            "PF-5008",
            format!("limit={limit} is outside of 1 to {MOST_ITEMS}"),
        )),
    }
}

fn decode(cursor: &str) -> Result<Place, Problem> {
    let place = URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    place.ok_or_else(|| {
        Problem::bad_request("PF-5007", "the cursor is not one that this server gave out")
            .with_hint("use next_cursor of the page before, or leave it out to begin again")
    })
}
