//! Queues of a veth pair are opened and closed, and what cannot be opened is refused.

mod support;

use devrx_driver::afxdp::{AfXdpNic, AfXdpOptions, discover};
use devrx_driver::{DriverError, Flows, Nic, Timestamps, ZeroCopy};
use support::{Setup, Wanted, config, in_namespace, open_nic, run};

#[test]
fn a_closed_queue_opens_again_at_once() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        for _ in 0..5 {
            let setup = Setup::new(&mut nic, Wanted::default());
            setup.finish(&mut nic, 0);
        }
        // Another one on the same interface and queue is refused, and told why.
        let setup = Setup::new(&mut nic, Wanted::default());
        let (second, _) = config(Wanted::default());
        assert!(matches!(
            nic.open_queue(0, second),
            Err(DriverError::QueueBusy { .. })
        ));
        let (second, _) = config(Wanted::default());
        assert!(matches!(
            nic.open_queue(1, second),
            Err(DriverError::NoQueue { queues: 1, .. })
        ));
        setup.finish(&mut nic, 0);
        // The interface itself: the program goes with the value.
        assert!(run("ip", "link show rx0").contains("xdp"));
        drop(nic);
        // A program that another test is just starting may have the link's descriptor until it runs.
        let gone = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            !run("ip", "link show rx0").contains("xdp")
        });
        assert!(gone);
        drop(open_nic());
    });
}

#[test]
fn unfit_memory_is_refused_with_the_reason() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        for (wanted, word) in [
            (
                Wanted {
                    chunk: 1024,
                    ..Wanted::default()
                },
                "2048 or 4096",
            ),
            (
                Wanted {
                    chunk: 8192,
                    ..Wanted::default()
                },
                "2048 or 4096",
            ),
            (
                Wanted {
                    ring: 100,
                    ..Wanted::default()
                },
                "power of two",
            ),
        ] {
            let (config, _) = config(wanted);
            let error = nic.open_queue(0, config).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let (mut small, _) = config(Wanted::default());
        small.headers.slot_size = 300;
        assert!(
            nic.open_queue(0, small)
                .unwrap_err()
                .to_string()
                .contains("header slots")
        );
        let (mut stamped, _) = config(Wanted::default());
        stamped.timestamps = Timestamps::Nic;
        let error = nic.open_queue(0, stamped).unwrap_err().to_string();
        assert!(error.contains("AF_XDP hands over no timestamps"), "{error}");
        let (mut zero, _) = config(Wanted::default());
        zero.zero_copy = ZeroCopy::ZeroCopy;
        let error = nic.open_queue(0, zero).unwrap_err();
        assert!(
            matches!(error, DriverError::Unsupported { .. }),
            "veth has no zero-copy: {error}"
        );
        assert!(matches!(
            nic.add_flow(0..=0, 0, &"udp".parse().unwrap()),
            Err(DriverError::QueueClosed { .. })
        ));
        assert!(matches!(
            AfXdpNic::open("none0", AfXdpOptions::default()),
            Err(DriverError::NoNic { .. })
        ));
        let found = discover().unwrap();
        let rx0 = found
            .iter()
            .find(|interface| interface.name == "rx0")
            .unwrap();
        assert_eq!(
            (
                rx0.driver.as_str(),
                rx0.queues,
                rx0.mtu,
                rx0.up,
                rx0.pci.as_deref()
            ),
            ("veth", 1, 1500, true, None)
        );
        // Where the kernel tells (Linux 6.3): its own XDP, no zero-copy.
        assert!(
            rx0.native_xdp != Some(false) && rx0.zero_copy != Some(true),
            "{rx0:?}"
        );
    });
}
