//! MSI-X vectors as eventfds.

use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::Interrupts;

/// The eventfds of the vectors that the client uses.
#[derive(Debug, Default)]
pub struct Vectors(Mutex<Vec<Option<File>>>);

impl Vectors {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<File>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects the vectors from `first` on to these files; `None` disconnects one.
    pub fn connect(&self, first: usize, files: impl IntoIterator<Item = Option<File>>) {
        let mut vectors = self.lock();
        for (index, file) in files.into_iter().enumerate() {
            let at = first + index;
            if vectors.len() <= at {
                vectors.resize_with(at + 1, || None);
            }
            vectors[at] = file;
        }
    }

    /// Disconnects all.
    pub fn clear(&self) {
        self.lock().clear();
    }
}

impl Interrupts for Vectors {
    fn raise(&self, vector: u16) {
        let vectors = self.lock();
        let Some(Some(file)) = vectors.get(usize::from(vector)) else {
            tracing::debug!("vector {vector} is raised, and nobody takes it");
            return;
        };
        // Fails only where the counter is full, and then the client knows already.
        (&mut &*file).write_all(&1_u64.to_ne_bytes()).ok();
    }
}
