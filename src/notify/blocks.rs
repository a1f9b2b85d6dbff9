//! What a Slack message shows, by webhook or by bot: Block Kit, made of slack-morphism's types.
//!
//! The header stands by itself, so that it is read first; everything else hangs on a bar in the severity's color. Slack
//! folds away what comes after the fifth block of such a bar, so there are never more: what to do stands with the reason,
//! right under the header, and facts that stand elsewhere in the message are left out of the fields.
//!
//! Slack refuses a payload over any of its limits as a whole: a message that is too long is told shorter, never not at all.

use jiff::{Timestamp, tz::TimeZone};
use slack_morphism::{
    SlackMessageAttachment, SlackMessageContent,
    blocks::{
        SlackActionsBlock, SlackBlock, SlackBlockButtonElement, SlackBlockButtonStyle, SlackBlockId, SlackBlockMarkDownText,
        SlackBlockPlainText, SlackBlockText, SlackContextBlock, SlackHeaderBlock, SlackSectionBlock,
    },
};

use super::form::{address, facts, sign};
use crate::{
    model::{Announcement, Severity, Topic},
    words::{Message, clipped},
};

/// Slack allows 150; the rest is room for signs that it counts by their names (`:red_circle:`).
const HEADER_CHARS_MAX: usize = 130;
/// Slack's limit of a section's text.
const SECTION_CHARS_MAX: usize = 3000;
/// Slack's limit of one field.
const FIELD_CHARS_MAX: usize = 2000;
/// Slack's limit of fields in a section.
const FIELDS_MAX: usize = 10;
/// Slack's limit of a block's id.
const BLOCK_ID_CHARS_MAX: usize = 255;
/// What to do, of a section that holds the reason too.
const NEXT_CHARS_MAX: usize = 900;
/// What a notification shows; more is cut off there anyway.
const TEXT_CHARS_MAX: usize = 500;
/// Slack refuses blocks over some 12,000 characters together (`msg_blocks_too_long`), its own containers included; how it
/// counts is not said.
const PAYLOAD_CHARS_MAX: usize = 10_000;
/// Characters of the reason and of each fact, tried in this order until the payload fits.
const CHARS_MAX: [(usize, usize); 3] = [(2000, FIELD_CHARS_MAX), (1000, 300), (400, 120)];

/// The color of a message's bar.
fn color(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "#d92d20",
        Severity::Warning => "#f79009",
        Severity::Info => "#12b76a",
    }
}

/// Slack's three control characters; with them escaped no text can become a link, a mention or `<!channel>`.
fn escape(c: char) -> Option<&'static str> {
    match c {
        '&' => Some("&amp;"),
        '<' => Some("&lt;"),
        '>' => Some("&gt;"),
        _ => None,
    }
}

/// `verbatim`: names and addresses in the text are not turned into links or mentions either.
fn markdown(text: String) -> SlackBlockMarkDownText {
    SlackBlockMarkDownText::new(text).with_verbatim(true)
}

fn section(text: String) -> SlackBlock {
    SlackSectionBlock::new().with_text(markdown(text).into()).into()
}

/// A moment in the reader's own time zone, with UTC where that cannot be shown.
fn moment(at: Timestamp, form: &str, fallback: &str) -> String {
    format!(
        "<!date^{}^{form}|{}>",
        at.as_second(),
        at.to_zoned(TimeZone::UTC).strftime(fallback)
    )
}

/// One step of a thread, as the first message lists it.
pub(super) fn step(topic: Topic, at: Timestamp) -> String {
    let mut words = topic.as_str().replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let at = moment(at, "{time_secs}", "%H:%M:%S UTC");
    format!("{} {at}  {words}", sign(topic.severity()))
}

const _: () = assert!(
    CHARS_MAX[0].0 + NEXT_CHARS_MAX + 20 <= SECTION_CHARS_MAX,
    "the reason and what to do share a section"
);

/// The whole message. `steps`: what happened so far, for the first message of a thread that is kept up to date. `id` is
/// the name of its last block: Slack gives it back when it is asked whether a message is there already.
pub(super) fn content(announcement: &Announcement, message: &Message, steps: &[String], id: &str) -> SlackMessageContent {
    let [first, rest @ ..] = CHARS_MAX;
    let of = |chars_max| sized(announcement, message, steps, id, chars_max);
    rest.into_iter().fold(of(first), |made, chars_max| {
        let long = serde_json::to_string(&made).map_or(0, |json| json.chars().count()) > PAYLOAD_CHARS_MAX;
        if long { of(chars_max) } else { made }
    })
}

fn sized(
    announcement: &Announcement,
    message: &Message,
    steps: &[String],
    id: &str,
    (sentence_max, fact_max): (usize, usize),
) -> SlackMessageContent {
    let title = format!("{} {}", sign(message.severity), message.title);
    // A header is plain text: Slack shows its characters as they are.
    let header = SlackHeaderBlock::new(SlackBlockPlainText::new(clipped(&title, HEADER_CHARS_MAX, |_| None)).into());
    let mut body: Vec<SlackBlock> = Vec::new();
    let mut said = clipped(&message.sentence, sentence_max, escape);
    if let Some(next) = message.next.as_ref().filter(|next| !next.is_empty()) {
        let gap = if said.is_empty() { "" } else { "\n\n" };
        said = format!("{said}{gap}*What to do:* {}", clipped(next, NEXT_CHARS_MAX, escape));
    }
    if !said.is_empty() {
        body.push(section(said));
    }
    if !steps.is_empty() {
        // Steps are written by us; their number is bounded by whoever keeps them.
        body.push(section(steps.join("\n")));
    }
    for facts in facts(announcement, message).chunks(FIELDS_MAX) {
        let fields = facts.iter().map(|(name, value)| field(name, value, fact_max)).collect();
        body.push(SlackSectionBlock::new().with_fields(fields).into());
    }
    if let Some(url) = address(announcement.link.as_deref()) {
        let button = SlackBlockButtonElement::new(SlackBlockPlainText::new("Open the report".to_owned()).into()).with_url(url);
        let button = if message.severity == Severity::Critical {
            button.with_style(SlackBlockButtonStyle::Primary)
        } else {
            button
        };
        body.push(SlackActionsBlock::new(vec![button.into()]).into());
    }
    body.push(footer(announcement, id));
    // With blocks, `text` is only what a lock screen and a screen reader give instead of them.
    let gap = if message.sentence.is_empty() { "" } else { " · " };
    let text = clipped(&format!("{title}{gap}{}", message.sentence), TEXT_CHARS_MAX, escape);
    let bar = SlackMessageAttachment::new()
        .with_color(color(message.severity).to_owned())
        .with_fallback(text.clone())
        .with_blocks(body);
    SlackMessageContent::new()
        .with_text(text)
        .with_blocks(vec![header.into()])
        .with_attachments(vec![bar])
}

fn field(name: &str, value: &str, fact_max: usize) -> SlackBlockText {
    let room = fact_max.min(FIELD_CHARS_MAX - name.chars().count() - 3);
    markdown(format!("*{name}*\n{}", clipped(value, room, escape))).into()
}

fn footer(announcement: &Announcement, id: &str) -> SlackBlock {
    let at = moment(announcement.at, "{date_short_pretty} {time_secs}", "%Y-%m-%d %H:%M:%S UTC");
    let mut words = format!("flipback · {at}");
    if let Some(incident) = &announcement.incident {
        words = format!("{words} · {}", clipped(incident, SECTION_CHARS_MAX / 10, escape));
    }
    let context = SlackContextBlock::new(vec![markdown(words).into()]);
    context.with_block_id(SlackBlockId(block_id(id))).into()
}

/// The name of the last block of the message with that id.
pub(super) fn block_id(id: &str) -> String {
    clipped(id, BLOCK_ID_CHARS_MAX, |_| None)
}
