//! Shared libraries, opened while the program runs.
#![expect(
    unsafe_code,
    reason = "runs the dynamic loader, and takes functions out of what it loaded"
)]

use std::ffi::{CStr, CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

use crate::GpuError;

/// A loaded library. It is never unloaded: drivers leave threads and exit handlers behind.
#[derive(Debug)]
pub(crate) struct Library {
    handle: NonNull<c_void>,
    name: String,
    fix: &'static str,
}

// SAFETY: the handle is a name for the loader, whose functions may be called from any thread.
unsafe impl Send for Library {}
// SAFETY: as above; dlsym does not change the library.
unsafe impl Sync for Library {}

impl Library {
    /// Opens a library by name or path; `fix` says what to install where it cannot be used.
    pub(crate) fn open(path: &Path, fix: &'static str) -> Result<Self, GpuError> {
        let name = path.display().to_string();
        let no_library = |why: String| GpuError::NoLibrary {
            library: name.clone(),
            why,
            fix,
        };
        let text = CString::new(path.as_os_str().as_bytes())
            .map_err(|_| no_library("its name has a zero byte in it".into()))?;
        // SAFETY: the name is a string with a zero at its end. What is opened is a driver's library or what the caller named, and its
        // initialisers are as trusted as its functions.
        let handle = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        match NonNull::new(handle) {
            Some(handle) => Ok(Self { handle, name, fix }),
            None => Err(no_library(last_error())),
        }
    }

    /// Opens the first of several that is there; the error is of the first.
    pub(crate) fn open_any(names: &[&str], fix: &'static str) -> Result<Self, GpuError> {
        let mut first = None;
        for name in names {
            match Self::open(Path::new(name), fix) {
                Ok(library) => return Ok(library),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| GpuError::Unsupported("no library was named".into())))
    }

    /// A function; `None` where the library has none of that name.
    ///
    /// # Safety
    ///
    /// * `F` is the type of a pointer to an `extern "C"` function.
    /// * The library's function of that name has that type.
    pub(crate) unsafe fn find<F: Copy>(&self, symbol: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: the handle is open, and stays so; the name is a string with a zero at its end.
        let address = unsafe { libc::dlsym(self.handle.as_ptr(), symbol.as_ptr()) };
        let address = NonNull::new(address)?;
        // SAFETY: the address is of a function of type F, as the caller promised, and pointers to functions are addresses here.
        Some(unsafe { std::mem::transmute_copy::<NonNull<c_void>, F>(&address) })
    }

    /// A function that must be there.
    ///
    /// # Safety
    ///
    /// As [`find`](Self::find).
    pub(crate) unsafe fn get<F: Copy>(&self, symbol: &CStr) -> Result<F, GpuError> {
        // SAFETY: the caller's promise.
        unsafe { self.find(symbol) }.ok_or_else(|| self.lacks(symbol))
    }

    /// The error of a function that is not there.
    pub(crate) fn lacks(&self, symbol: &CStr) -> GpuError {
        GpuError::NoSymbol {
            library: self.name.clone(),
            symbol: symbol.to_string_lossy().into_owned(),
            fix: self.fix,
        }
    }
}

fn last_error() -> String {
    // SAFETY: takes nothing, and returns null or this thread's message of the last failure.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return "the loader says nothing".into();
    }
    // SAFETY: not null, so it is a string that stays until this thread's next call of the loader.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

#[cfg(any(test, feature = "standin"))]
impl Library {
    /// Asks a stand-in how much of what it gave it was not given back.
    pub(crate) fn standin_held(&self) -> i32 {
        // SAFETY: the stand-ins define it so.
        let held: unsafe extern "C" fn() -> i32 =
            unsafe { self.get(c"standin_held") }.expect("it is a stand-in");
        // SAFETY: it has no preconditions.
        unsafe { held() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        let error =
            Library::open(Path::new("/nonexistent/libcuda.so.1"), "install it").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/nonexistent/libcuda.so.1") && text.contains("install it"),
            "{text}"
        );
        let library = Library::open_any(&["/nonexistent/a", "libc.so.6"], "install it").unwrap();
        // SAFETY: getpid of the C library takes nothing and returns an int.
        let getpid: unsafe extern "C" fn() -> i32 = unsafe { library.get(c"getpid") }.unwrap();
        // SAFETY: as above; it has no preconditions.
        assert_eq!(unsafe { getpid() }.cast_unsigned(), std::process::id());
        // SAFETY: there is no such function, so none of a wrong type is taken.
        let none = unsafe { library.get::<unsafe extern "C" fn()>(c"cuInit") };
        assert!(
            none.unwrap_err()
                .to_string()
                .contains("libc.so.6 has no cuInit")
        );
        let error = Library::open(Path::new("a\0b"), "").unwrap_err();
        assert!(error.to_string().contains("zero byte"), "{error}");
    }
}
