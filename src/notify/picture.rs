//! The picture that goes with a message. It may be gone, half written or huge by the time it is sent: then the message
//! goes without it.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// What every chat takes; the plots are a hundredth of it.
const PICTURE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How every PNG begins.
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Under this name chats show it.
pub(super) const FILE_NAME: &str = "plot.png";

/// Why a picture cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum PictureError {
    #[error("failed to read the picture {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the picture {path:?} is no PNG file of at most {PICTURE_BYTES_MAX} bytes")]
    NotOne { path: PathBuf },
    #[error("the runtime is stopping")]
    Stopping,
}

/// Reads a picture off the runtime's threads: it lies on the same volume as the evidence, which may hang.
pub(super) async fn read(path: &Path) -> Result<Vec<u8>, PictureError> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read_now(path)).await;
    read.unwrap_or(Err(PictureError::Stopping))
}

fn read_now(path: PathBuf) -> Result<Vec<u8>, PictureError> {
    let failed = |source| PictureError::Read {
        path: path.clone(),
        source,
    };
    // Asked before it is opened: opening a pipe waits for its writer.
    let file = std::fs::metadata(&path).map_err(failed)?;
    if !file.is_file() || file.len() > PICTURE_BYTES_MAX {
        return Err(PictureError::NotOne { path });
    }
    let mut bytes = Vec::new();
    let open = File::open(&path).map_err(failed)?;
    open.take(PICTURE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if !bytes.starts_with(PNG) || bytes.len() as u64 > PICTURE_BYTES_MAX {
        return Err(PictureError::NotOne { path });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_small_png_is_a_picture() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            read_now(path)
        };
        assert_eq!(
            at("good.png", b"\x89PNG\r\n\x1a\nrest").expect("a picture"),
            b"\x89PNG\r\n\x1a\nrest"
        );
        assert!(at("text.png", b"root:x:0:0").is_err());
        assert!(at("empty.png", b"").is_err());
        let mut huge = PNG.to_vec();
        huge.resize(PICTURE_BYTES_MAX as usize + 1, 0);
        assert!(at("huge.png", &huge).is_err());
        assert!(read_now(folder.path().join("gone.png")).is_err());
        assert!(read_now(folder.path().to_owned()).is_err());
    }
}
