//! Downloads over HTTP that resume where a connection breaks off.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::anyhow;
use ureq::Agent;

use super::fetch::{Failure, RetryPolicy};
use super::load::Event;

/// The most bytes that are downloaded as one file: more than any file of any collection has.
const MAX_DOWNLOAD: u64 = 4 << 30;

/// Appends to `file`, which is at `partial` and will be called `name`, what it lacks of `url`. `tell` is told how far it
/// is, and when the server has to be asked again.
pub(super) fn append(
    url: &str,
    name: &str,
    file: &mut File,
    partial: &Path,
    retry: RetryPolicy,
    tell: &mut dyn FnMut(Event),
) -> Result<(), Failure> {
    let here = Failure::of_writing(partial);
    let agent: Agent = Agent::config_builder()
        .timeout_connect(Some(retry.timeout))
        .timeout_recv_response(Some(retry.timeout))
        .timeout_per_read(Some(retry.timeout))
        .http_status_as_error(false)
        .user_agent(format!("dcgan/{}", crate::VERSION))
        .build()
        .into();
    let (mut tries, mut pause, mut most) = (0, retry.pause, 0);
    loop {
        let before = file.seek(SeekFrom::End(0)).map_err(here)?;
        let mut progress = |bytes, total| tell(Event::Fetched(name, bytes, total));
        let failure = match stretch(&agent, url, file, before, &mut progress) {
            Ok(()) => return file.sync_all().map_err(here),
            Err(Stretch::Fatal(failure)) => return Err(failure),
            Err(Stretch::Again(error)) => error,
        };
        let after = file.seek(SeekFrom::End(0)).map_err(here)?;
        // A stretch that brought more than there ever was is progress: the tries begin anew.
        if after > most {
            (tries, pause, most) = (0, retry.pause, after);
            tell(Event::Warning(&format!("{url}: {failure:#}; going on from byte {after}")));
            continue;
        }
        tries += 1;
        if tries >= retry.tries {
            return Err(Failure::Mirror(failure.context(format!("{tries} tries"))));
        }
        let next = tries + 1;
        tell(Event::Warning(&format!("{url}: {failure:#}; try {next} of {}", retry.tries)));
        std::thread::sleep(pause);
        pause = pause.saturating_mul(2);
    }
}

/// Why a stretch has ended before the file's end.
enum Stretch {
    /// It may be asked for again.
    Again(anyhow::Error),
    Fatal(Failure),
}

/// Asks for `url` from byte `begin` on, and appends what comes to `file`.
fn stretch(
    agent: &Agent,
    url: &str,
    file: &mut File,
    begin: u64,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), Stretch> {
    let again = |error: anyhow::Error| Stretch::Again(error);
    // The file as it is: its bytes are counted and hashed.
    let mut request = agent.get(url).header("Accept-Encoding", "identity");
    if begin > 0 {
        request = request.header("Range", format!("bytes={begin}-"));
    }
    let response = request.call().map_err(|error| match error {
        error @ (ureq::Error::BadUri(_)
        | ureq::Error::TooManyRedirects
        | ureq::Error::RequireHttpsOnly(_)
        | ureq::Error::InvalidProxyUrl) => Stretch::Fatal(Failure::Mirror(anyhow!(error))),
        error => again(anyhow!(error)),
    })?;
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
    let range_total = header("content-range")
        .and_then(|range| range.rsplit('/').next())
        .and_then(|total| total.parse::<u64>().ok());
    let length = header("content-length").and_then(|length| length.parse::<u64>().ok());
    let mut at = match status {
        200 => 0,
        206 => {
            let start = header("content-range")
                .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
            if start != Some(begin) {
                let error = anyhow!("expected bytes from {begin} on, found others");
                return Err(Stretch::Fatal(Failure::Content(error)));
            }
            begin
        }
        // There are no more bytes: it is whole, or another file.
        416 if begin > 0 => return Ok(()),
        408 | 425 | 429 | 500..=599 => return Err(again(anyhow!("status {status}"))),
        _ => return Err(Stretch::Fatal(Failure::Mirror(anyhow!("status {status}")))),
    };
    let total = range_total.or(length.map(|length| at.saturating_add(length)));
    let here = |e: std::io::Error| Stretch::Fatal(Failure::Here(anyhow!(e)));
    // A server that knows no ranges begins anew.
    file.set_len(at).map_err(here)?;
    file.seek(SeekFrom::Start(at)).map_err(here)?;
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(again(anyhow!(e))),
        };
        file.write_all(&buffer[..read]).map_err(here)?;
        at += read as u64;
        if at > MAX_DOWNLOAD {
            let error = anyhow!("more than {MAX_DOWNLOAD} bytes");
            return Err(Stretch::Fatal(Failure::Content(error)));
        }
        progress(at, total);
    }
    match total {
        Some(total) if at < total => Err(again(anyhow!("broke off after {at} of {total} bytes"))),
        _ => Ok(()),
    }
}
