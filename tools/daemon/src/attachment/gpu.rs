//! `cuda:INDEX`, `hip:INDEX`: memory of a GPU, which the daemon allocates.

use devrx_provider::{Region, RegionSpec, cuda, dmabuf, hip};

use crate::error::Refused;

/// Where the libraries of GPU drivers are, and what the machine shows of GPUs.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Gpus {
    /// NVIDIA's.
    pub cuda: cuda::Options,
    /// AMD's.
    pub hip: hip::Options,
}

/// Whose GPUs are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Maker {
    Cuda,
    Hip,
}

/// Memory of a GPU, by its one spelling.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GpuName {
    maker: Maker,
    index: u32,
    text: String,
}

impl GpuName {
    /// Reads `cuda:0`; `None` where the word is of another kind of memory.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and how it is written.
    pub fn parse(word: &str) -> Option<Result<Self, String>> {
        let (kind, rest) = word.split_once(':').unwrap_or((word, ""));
        let maker = match kind {
            "cuda" => Maker::Cuda,
            "hip" => Maker::Hip,
            _ => return None,
        };
        // One spelling: no sign, no leading zeros.
        let index = rest
            .parse::<u32>()
            .ok()
            .filter(|index| index.to_string() == rest);
        Some(match index {
            Some(index) => Ok(Self {
                maker,
                index,
                text: word.to_owned(),
            }),
            None => Err(format!(
                "{word:.40?} names no GPU; write {kind}:INDEX, counted from 0, such as {kind}:0"
            )),
        })
    }

    /// The word.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Allocates memory of the GPU.
    ///
    /// # Errors
    ///
    /// When there is no such GPU or library, or no NIC could be given access to the memory.
    pub(super) fn region(
        &self,
        spec: RegionSpec,
        policy: &dmabuf::Policy,
        gpus: &Gpus,
    ) -> Result<Region, Refused> {
        Ok(match self.maker {
            Maker::Cuda => cuda::create(self.index, spec, &gpus.cuda)?,
            Maker::Hip => hip::create(self.index, spec, policy, &gpus.hip)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_gpu_has_one_spelling() {
        for word in ["cuda:0", "hip:0", "cuda:15"] {
            assert_eq!(GpuName::parse(word).unwrap().unwrap().text(), word);
        }
        for other in ["memfd", "cudax:0", "pci:0000:03:00.0/2", "dmabuf:3"] {
            assert!(GpuName::parse(other).is_none(), "{other}");
        }
        for bad in [
            "cuda",
            "cuda:",
            "cuda:x",
            "cuda:+1",
            "cuda:01",
            "hip:-1",
            "hip:0:1",
            "cuda:4294967296",
            "cuda:0 ",
        ] {
            let error = GpuName::parse(bad).expect("of this kind").unwrap_err();
            assert!(error.contains(":INDEX"), "{bad}: {error}");
        }
    }
}
