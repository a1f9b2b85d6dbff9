//! A panic of a router is a failure like any other. Without this it would end the flip's task and nothing else: no message, no
//! incident, no line in the journal, and no answer for the person who asked for the flip.

use std::{any::Any, panic::AssertUnwindSafe};

use futures::FutureExt;

use crate::router::RouterError;

/// What was asked of a router; where its own code breaks, [`RouterError::Broken`].
pub(super) async fn caught<T>(asked: impl Future<Output = Result<T, RouterError>>, object: &str) -> Result<T, RouterError> {
    AssertUnwindSafe(asked).catch_unwind().await.unwrap_or_else(|panic| {
        Err(RouterError::Broken {
            object: object.to_owned(),
            said: said(&*panic),
        })
    })
}

/// The words of a panic.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn asked(breaks: Option<Box<dyn Any + Send>>) -> Result<u32, RouterError> {
        match breaks {
            Some(how) => std::panic::resume_unwind(how),
            None => Ok(7),
        }
    }

    #[tokio::test]
    async fn a_router_that_breaks_has_failed_and_says_how() {
        assert_eq!(caught(asked(None), "Service/web").await.expect("is sound"), 7);
        let mut told = Vec::new();
        for how in [
            Box::new("index out of bounds") as Box<dyn Any + Send>,
            Box::new("no color \"mauve\"".to_owned()),
            Box::new(7_u32),
        ] {
            told.push(caught(asked(Some(how)), "Service/web").await.expect_err("has broken").to_string());
        }
        insta::assert_snapshot!(told.join("\n"), @r#"
        failed to change Service/web: flipback's own code broke (index out of bounds), and whether traffic was moved is not known; look where Service/web points, and report this
        failed to change Service/web: flipback's own code broke (no color "mauve"), and whether traffic was moved is not known; look where Service/web points, and report this
        failed to change Service/web: flipback's own code broke (no words), and whether traffic was moved is not known; look where Service/web points, and report this
        "#);
    }
}
