//! A numbered stream on the real daemon, with packets lost, overtaken and sent twice, comes out as frames; wherever the number lies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_client::Client;
use devrx_client::placement::{Frame, FrameReceiver, PlacementOptions, PlacementStats};
use devrx_hw_tests::command::{Process, wait_for};
use devrx_hw_tests::cprogram::{Sdk, capi};
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::frame::{self, numbered};
use devrx_hw_tests::lane;
use devrx_hw_tests::link::{Link, LinkSpec, NEAR_IF};
use devrx_hw_tests::sender::send_frames;

/// Packets of a frame.
const PLACES: u64 = 16;
/// Frames of the stream.
const FRAMES: u64 = 40;
/// UDP payload bytes of a packet: its number, and data.
const PAYLOAD: usize = 400;
const DATA: usize = PAYLOAD - frame::NUMBER;

/// The numbers of a stream in the order in which they are sent, those that are not, and how many are sent twice.
fn stream() -> (Vec<u64>, Vec<u64>, u64) {
    let mut order: Vec<u64> = (0..FRAMES * PLACES).collect();
    // Some change places with others of the same frame or the next, which the window takes.
    for at in (0..order.len() - 20).step_by(7) {
        order.swap(at, at + 1 + at % 19);
    }
    let lost: Vec<u64> = (0..FRAMES * PLACES).filter(|n| n % 23 == 5).collect();
    order.retain(|number| !lost.contains(number));
    let mut sent = Vec::new();
    let mut twice = 0;
    for (at, number) in order.into_iter().enumerate() {
        sent.push(number);
        if at % 29 == 3 {
            sent.push(number);
            twice += 1;
        }
    }
    (sent, lost, twice)
}

/// Receives the stream as frames; `extra` bytes of it go to the header slot.
fn receive(daemon: &Daemon, link: &Link, extra: usize) -> Result<()> {
    daemon.ok(&format!(
        "attach --name stream --nic {NEAR_IF} --queue 0 --memory memfd --size 8M --flow udp,dst-port=5000 --split-extra {extra}"
    ))?;
    let attachment = Client::connect(daemon.socket())?.open("stream")?;
    let options =
        PlacementOptions::new(u32::try_from(PLACES)?, u32::try_from(DATA)?).sequence(0, 8);
    let mut frames = FrameReceiver::new(attachment, &options)?;
    let (sent, lost, twice) = stream();
    let wire = sent
        .iter()
        .map(|number| frame::numbered(5000, *number, PAYLOAD))
        .collect();
    send_frames(link, wire, 5000)?;
    let mut seen = Vec::new();
    loop {
        match frames.recv(Some(Duration::from_millis(300)))? {
            Some(frame) => check(&frame, &mut seen, extra)?,
            None if frames.stats().missing == lost.len() as u64 => break,
            None if frames.stats().packets == sent.len() as u64 => frames.flush(),
            None => anyhow::bail!("no more packets: {:?}", frames.stats()),
        }
    }
    let stats = frames.stats();
    let packets = sent.len() as u64;
    let incomplete = FRAMES - stats.frames_complete;
    ensure!(
        (stats.packets, stats.placed, stats.duplicate) == (packets, packets - twice, twice)
            && stats.missing == lost.len() as u64
            && (stats.frames_incomplete, stats.frames_missed) == (incomplete, 0)
            && (
                stats.late,
                stats.out_of_range,
                stats.oversize,
                stats.unreadable
            ) == (0, 0, 0, 0),
        "{packets} packets, {twice} of them sent twice, {} lost: {stats:?}",
        lost.len()
    );
    ensure!(stats != PlacementStats::default() && incomplete > 0);
    let mut want: Vec<u64> = (0..FRAMES * PLACES).filter(|n| !lost.contains(n)).collect();
    want.sort_unstable();
    ensure!(seen == want, "other packets than were sent");
    drop(frames);
    daemon.detach_and_check("stream")?;
    Ok(())
}

/// A frame's bytes, and where they lay: so many of them in the header slot as were asked for.
fn check(frame: &Frame, seen: &mut Vec<u64>, extra: usize) -> Result<()> {
    let mut image = vec![0; frame.size()];
    let missing = frame.copy_into(&mut image, 0xee)?;
    ensure!(missing == frame.missing());
    for (index, place) in image.chunks_exact(DATA).enumerate() {
        let number = frame.number() * PLACES + index as u64;
        let taken = frame.present()[index / 64] >> (index % 64) & 1 == 1;
        ensure!(taken == frame.has(index));
        if !taken {
            ensure!(place.iter().all(|byte| *byte == 0xee));
            continue;
        }
        let wire = numbered(5000, number, PAYLOAD);
        ensure!(
            place == &wire[frame::HEADERS + frame::NUMBER..],
            "packet {number} reads differently"
        );
        let chunk = &frame.chunks(index).context("taken")?[0];
        // A slot holds 256 bytes, not more.
        let slot = (frame::HEADERS + extra).min(256);
        ensure!(
            chunk.header_len() == slot && chunk.len() == wire.len() - slot,
            "packet {number}: {} bytes in the slot, {} in the chunk",
            chunk.header_len(),
            chunk.len()
        );
        seen.push(number);
    }
    Ok(())
}

#[test]
fn frames_are_whole_wherever_the_number_lies() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        // In the payload; on both sides of the cut; in the header slot; in the header slot with a part of the data, and as much as there is room for.
        for extra in [0, 3, 8, 100, 250] {
            receive(&daemon, &link, extra)
                .with_context(|| format!("{extra} bytes in the header slot"))?;
        }
        let refused = daemon.refused(&format!(
            "attach --name no --nic {NEAR_IF} --queue 0 --memory memfd --size 1M --flow any --split-extra 256"
        ))?;
        ensure!(
            refused.contains("256 bytes behind the header do not fit a header slot of 256"),
            "{refused}"
        );
        Ok(())
    });
}

/// The same stream, placed and gathered by device code: a persistent kernel that a thread of the CPU plays. The number lies in the payload.
#[test]
fn device_code_places_the_stream_as_the_client_does() {
    lane::test(|| {
        let sdk = Sdk::install()?;
        let source = capi().join("examples/placement.cu");
        let program = sdk.build(
            "c++",
            &["-O2", "-std=c++11", "-pthread", "-x", "c++"],
            &source,
        )?;
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        daemon.ok(&format!(
            "attach --name stream --nic {NEAR_IF} --queue 0 --memory memfd --size 4M --flow udp,dst-port=5000 --polls-refill"
        ))?;
        let mut command = sdk.command(&program, &daemon.socket());
        command.args(["stream", &PLACES.to_string(), &DATA.to_string()]);
        let process = Process::start(&mut command)?;
        wait_for("it is the consumer", Duration::from_secs(5), || {
            Ok(daemon.stats()?.attachment("stream")?.text("state") != "idle")
        })?;
        let (sent, lost, twice) = stream();
        let wire = sent
            .iter()
            .map(|number| numbered(5000, *number, PAYLOAD))
            .collect();
        send_frames(&link, wire, 5000)?;
        let entry = daemon.check_sums()?.attachment("stream")?;
        ensure!(
            entry.count("delivered")? == sent.len() as u64,
            "packets were dropped: {}",
            entry.json()
        );
        daemon.detach("stream")?;
        let output = process.wait(Duration::from_secs(5))?;
        ensure!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        let lines: Vec<&str> = output.stdout.lines().collect();
        ensure!(lines.len() as u64 == FRAMES + 1, "{output:?}");
        for (frame, line) in (0..FRAMES).zip(&lines) {
            let numbers = frame * PLACES..(frame + 1) * PLACES;
            let (missing, there): (Vec<u64>, Vec<u64>) = numbers.partition(|n| lost.contains(n));
            let data = there.iter().flat_map(|number| {
                numbered(5000, *number, PAYLOAD).split_off(frame::HEADERS + frame::NUMBER)
            });
            let sum: u64 = data.map(u64::from).sum();
            let said = line.split("end ").collect::<Vec<_>>();
            ensure!(
                said.len() == 2
                    && said[0] == format!("frame {frame}: ")
                    && said[1].ends_with(&format!(", {} missing, adds up to {sum}", missing.len()))
                    && (missing.is_empty() == said[1].starts_with('0')),
                "frame {frame} has {} missing and adds up to {sum}: {line}",
                missing.len()
            );
        }
        let (packets, lost) = (sent.len() as u64, lost.len());
        let want = format!(
            "{packets} packets: {} placed, 0 late, {twice} duplicate, 0 out of range, 0 oversize, 0 unreadable; {lost} missing",
            packets - twice
        );
        ensure!(
            lines[lines.len() - 1] == want,
            "expected {want:?}: {output:?}"
        );
        let entry = daemon.stats()?.attachment("stream")?;
        ensure!(
            entry.refused() == 0 && entry.count("in_flight")? == 0,
            "{}",
            entry.json()
        );
        Ok(())
    });
}
