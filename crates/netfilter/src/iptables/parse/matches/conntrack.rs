//! The options of the `conntrack` match.

use super::super::super::{
    CtDirection, CtState, CtStates, CtStatus, CtStatuses, Family, MatchConntrack,
};
use super::super::segment::{Segment, plain, value, with};
use super::super::words::Word;
use super::super::{Fault, Parsed, values};

pub(super) fn ct_states(word: &Word<'_>) -> Parsed<CtStates> {
    let mut states = CtStates::default();
    values::names(word, &CtState::NAMES, "a list of connection states", |s| {
        states = states.with(s);
    })?;
    Ok(states)
}

pub(super) fn conntrack(family: Family, segment: &Segment<'_>) -> Parsed<MatchConntrack> {
    let mut ct = MatchConntrack::default();
    for item in &segment.items {
        let word = value(item)?;
        let net = || values::net(family, word).map(|n| Some(with(item, n)));
        let ports = || values::ports(word, ':').map(|p| Some(with(item, p)));
        match item.option {
            "--ctstate" => ct.state = Some(with(item, ct_states(word)?)),
            "--ctproto" => ct.protocol = values::protocol(word)?.map(|p| with(item, p)),
            "--ctorigsrc" => ct.original_source = net()?,
            "--ctorigdst" => ct.original_destination = net()?,
            "--ctreplsrc" => ct.reply_source = net()?,
            "--ctrepldst" => ct.reply_destination = net()?,
            "--ctorigsrcport" => ct.original_source_port = ports()?,
            "--ctorigdstport" => ct.original_destination_port = ports()?,
            "--ctreplsrcport" => ct.reply_source_port = ports()?,
            "--ctrepldstport" => ct.reply_destination_port = ports()?,
            "--ctstatus" => ct.status = Some(with(item, ct_statuses(word)?)),
            "--ctexpire" => {
                let range = values::u32_range(&word.text, ':');
                let range = range.ok_or_else(|| Fault::not_a(word, "a range of seconds"))?;
                ct.expires = Some(with(item, range));
            }
            _ => {
                plain(item)?;
                ct.direction = Some(match &*word.text {
                    "ORIGINAL" => CtDirection::Original,
                    "REPLY" => CtDirection::Reply,
                    _ => return Err(Fault::not_a(word, "ORIGINAL or REPLY")),
                });
            }
        }
    }
    Ok(ct)
}

fn ct_statuses(word: &Word<'_>) -> Parsed<CtStatuses> {
    let mut statuses = CtStatuses::default();
    if &*word.text != "NONE" {
        values::names(word, &CtStatus::NAMES, "a list of connection marks", |s| {
            statuses = statuses.with(s);
        })?;
    }
    Ok(statuses)
}
