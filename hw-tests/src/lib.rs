//! Everything that needs a kernel, a machine or a device.
