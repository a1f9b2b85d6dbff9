//! A picture in a Slack thread: ask for a place, send the bytes there, say that they are all. Tried once: the message that
//! it goes with is there already.

use std::{path::Path, time::Duration};

use reqwest::header::HeaderMap;
use slack_morphism::{
    SlackChannelId, SlackFileId, SlackTs,
    api::{SlackApiFilesComplete, SlackApiFilesCompleteUploadExternalRequest},
};
use url::Url;

use super::{
    DeliverError, picture,
    post::{Body, To},
    slack_api::Api,
    slack_receipt::{Place, digest},
};
use crate::{
    model::settings::Channel,
    words::{Message, clipped},
};

/// A picture's title.
const TITLE_CHARS_MAX: usize = 150;

/// Why a picture was not shown.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShowError {
    #[error("the picture cannot be read")]
    Read(#[source] picture::PictureError),
    #[error("the picture was not accepted")]
    Deliver(#[source] DeliverError),
    #[error("the picture has no place: Slack named none to send it to")]
    NoUrl,
    #[error("the picture was not sent within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
}

impl ShowError {
    /// What a person can do about it; empty where that is nothing.
    pub(super) fn remedy(&self, channel: &Channel) -> String {
        match self {
            Self::Deliver(error) => error.remedy(channel),
            Self::Read(_) | Self::NoUrl | Self::Timeout(_) => String::new(),
        }
    }
}

/// Shows a picture in a thread, unless its digest is `known` to be there; returns the digest.
pub(super) async fn upload(
    api: Api<'_>,
    message: &Message,
    path: &Path,
    thread: &Place,
    known: Option<String>,
) -> Result<String, ShowError> {
    let bytes = picture::read(path).await.map_err(ShowError::Read)?;
    let name = digest(&bytes);
    if known.as_ref() == Some(&name) {
        return Ok(name);
    }
    let title = clipped(&message.title, TITLE_CHARS_MAX, |_| None);
    // This method reads forms only.
    let ask = vec![
        ("filename", picture::FILE_NAME.to_owned()),
        ("length", bytes.len().to_string()),
        ("alt_txt", format!("Plot: {title}")),
    ];
    let offer = api.call("files.getUploadURLExternal", Body::Form(ask)).await;
    let offer = offer.map_err(ShowError::Deliver)?;
    let url = offer["upload_url"].as_str().and_then(|url| Url::parse(url).ok());
    let (Some(url), Some(file)) = (url.filter(|url| api.may_upload_to(url)), offer["file_id"].as_str()) else {
        return Err(ShowError::NoUrl);
    };
    let body = Body::Bytes(bytes, "image/png");
    let sent = api.post.send(To::Open(url), body, HeaderMap::new(), None).await;
    sent.map_err(ShowError::Deliver)?;
    let file = SlackApiFilesComplete::new(SlackFileId(file.to_owned())).with_title(title);
    let done = SlackApiFilesCompleteUploadExternalRequest::new(vec![file])
        .with_channel_id(SlackChannelId(thread.channel.clone()))
        .with_thread_ts(SlackTs(thread.ts.clone()));
    let done = api.call("files.completeUploadExternal", Body::json(&done)).await;
    done.map_err(ShowError::Deliver)?;
    Ok(name)
}
