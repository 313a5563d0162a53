//! Receive: queues, and a frame's way into one.

mod context;
mod deliver;
mod descriptor;
mod split;

pub(crate) use deliver::Choice;
pub(crate) use descriptor::DESCRIPTOR;

use context::{CONTEXT, Context};

use crate::bytes;
use crate::fault::Fault;
use crate::regs;
use crate::state::State;

/// A queue that runs.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) context: Context,
    /// The descriptor that is next.
    pub(crate) head: u16,
    /// Packets that were lost because a descriptor could not be read.
    pub(crate) unreadable: u64,
    /// Writes for packets that reached no memory.
    pub(crate) astray: u64,
}

/// A descriptor that a fault holds back.
#[derive(Clone, Debug)]
pub(crate) struct Late {
    pub(crate) queue: u32,
    pub(crate) at: u64,
    pub(crate) bytes: [u8; DESCRIPTOR],
}

impl State {
    /// QRX_CTRL was written: the queue starts or stops.
    pub(crate) fn control_rx(&mut self, queue: u32, value: u32) {
        let control = regs::QRX_CTRL + queue * 4;
        let wanted = value & regs::QRX_CTRL_REQ != 0;
        let runs = self.rx.contains_key(&queue);
        self.regs.set(
            control,
            value & !regs::QRX_CTRL_STAT | if runs { regs::QRX_CTRL_STAT } else { 0 },
        );
        if wanted && !runs && self.fault != Fault::QueueWillNotStart {
            match self.start_rx(queue) {
                Ok(started) => {
                    self.rx.insert(queue, started);
                    self.regs.set_bits(control, regs::QRX_CTRL_STAT);
                }
                Err(why) => self.refuse(format!("receive queue {queue} does not start: {why}")),
            }
        } else if !wanted && runs && self.fault != Fault::QueueWillNotStop {
            self.stop_rx(queue);
        }
    }

    fn start_rx(&self, queue: u32) -> Result<Queue, String> {
        if queue >= u32::from(self.card.queues) {
            return Err(format!("the function has {} queues", self.card.queues));
        }
        let mut words = [0; CONTEXT];
        for i in 0..8 {
            let word = self
                .regs
                .get(regs::QRX_CONTEXT + i * regs::QRX_CONTEXT_STRIDE + queue * 4);
            bytes::put32(&mut words, i as usize * 4, word);
        }
        let profile = self.regs.get(regs::QRXFLXP_CNTXT + queue * 4);
        let mut context = Context::new(&words, profile as u8 & 0x3f, self.card.strict)?;
        context.stamps = profile & regs::QRXFLXP_CNTXT_TS != 0;
        Ok(Queue {
            head: context.head,
            context,
            unreadable: 0,
            astray: 0,
        })
    }

    /// A queue stops: what was not written back never is.
    pub(crate) fn stop_rx(&mut self, queue: u32) {
        if let Some(stopped) = self.rx.remove(&queue) {
            self.sum_up(queue, &stopped);
        }
        self.late.clear();
        self.regs
            .clear_bits(regs::QRX_CTRL + queue * 4, regs::QRX_CTRL_STAT);
    }

    /// What went wrong more than once for a queue that has stopped: it was told when it began.
    fn sum_up(&mut self, queue: u32, stopped: &Queue) {
        for (count, what) in [
            (
                stopped.unreadable,
                "packets were lost in all, because descriptors could not be read",
            ),
            (
                stopped.astray,
                "writes for packets in all reached no memory",
            ),
        ] {
            if count > 1 {
                self.refuse(format!(
                    "receive queue {queue}, until it stopped: {count} {what}"
                ));
            }
        }
    }

    /// QRX_TAIL was written. It is looked at when a frame comes; only nonsense is told at once.
    pub(crate) fn tail_rx(&mut self, queue: u32, value: u32) {
        let tail = regs::QRX_TAIL + queue * 4;
        self.regs.set(tail, value);
        if let Some(running) = self.rx.get(&queue)
            && value >= u32::from(running.context.len)
        {
            let len = running.context.len;
            self.refuse(format!(
                "receive queue {queue}: tail {value} is beyond the {len} descriptors"
            ));
            self.stop_rx(queue);
            self.detect_rx(queue);
        }
    }

    /// A malicious driver was detected on a receive queue: DPDK `ice_ethdev.c`, `ice_interrupt_handler`.
    fn detect_rx(&mut self, queue: u32) {
        const ILLEGAL_TAIL: u32 = 2;
        // The device's number.
        let queue = queue + u32::from(self.card.first_queue());
        self.regs.set(
            regs::GL_MDET_RX,
            1 << 31 | ILLEGAL_TAIL << 26 | queue & 0x7fff,
        );
        self.regs.set(regs::PF_MDET_RX, 1);
        self.raise_other(regs::OICR_MAL_DETECT);
    }
}
