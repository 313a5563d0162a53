//! Receives a numbered UDP stream as frames: `frames NIC PORT [FRAMES]`. Each packet begins with its number (4 bytes, network byte order); 64
//! packets of up to 1024 bytes are a frame.

use std::time::Duration;

use devrx_client::placement::{FrameReceiver, PlacementOptions};
use devrx_client::{AttachOptions, Client};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(nic), Some(port)) = (arguments.next(), arguments.next()) else {
        return Err("usage: frames NIC PORT [FRAMES]".into());
    };
    let most = arguments
        .next()
        .map_or(Ok(usize::MAX), |text| text.parse())?;
    // The number goes to the header slot with the headers, so that the payload could be memory that no CPU reads.
    let attach = AttachOptions::new("frames", nic, 0)
        .size(16 << 20)
        .split_extra(4)
        .flow(format!("udp,dst-port={port}"));
    let attachment = Client::connect(Client::default_path())?.attach(&attach)?;
    let options = PlacementOptions::new(64, 1024)
        .sequence(0, 4)
        .window(4)
        .deadline(Duration::from_millis(50));
    let mut frames = FrameReceiver::new(attachment, &options)?;
    let mut image = vec![0; 64 * 1024];
    for _ in 0..most {
        let Some(frame) = frames.recv(Some(Duration::from_secs(5)))? else {
            break;
        };
        let missing = frame.copy_into(&mut image, 0)?;
        let sum: u64 = image.iter().map(|byte| u64::from(*byte)).sum();
        println!(
            "frame {}: {:?}, {missing} of {} packets missing, adds up to {sum}",
            frame.number(),
            frame.end(),
            frame.places()
        );
    }
    let stats = frames.stats();
    println!(
        "{} packets: {} placed, {} late, {} duplicate, {} out of range, {} unreadable; {} missing",
        stats.packets,
        stats.placed,
        stats.late,
        stats.duplicate,
        stats.out_of_range,
        stats.unreadable,
        stats.missing
    );
    Ok(())
}
