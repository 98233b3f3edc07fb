//! JPEG compression and decompression, for recipes whose published code saves JPEG files: as Pillow
//! writes and reads them by default.

use super::png::{interleave, planes};
use super::{DataError, decode};
use mozjpeg::{ColorSpace, Compress};
use std::panic::{AssertUnwindSafe, catch_unwind};

const QUALITY: f32 = 75.0;

/// Compresses `pixels` `[C, H, W]` to JPEG and returns the decoded pixels `[C, H, W]`. Quality is
/// 75; the chroma of three-channel images is subsampled 2×2.
///
/// # Errors
/// When there are not 1 or 3 channels, or a side is 0 or beyond 65500.
pub fn recompressed(
    pixels: &[u8],
    channels: usize,
    height: usize,
    width: usize,
) -> Result<Vec<u8>, DataError> {
    let refuse =
        |why: String| DataError::Mismatch(format!("an image can't be passed through JPEG: {why}"));
    let space = match channels {
        1 => ColorSpace::JCS_GRAYSCALE,
        3 => ColorSpace::JCS_RGB,
        _ => return Err(refuse(format!("it has {channels} channels, not 1 or 3"))),
    };
    if !(1..=65_500).contains(&height) || !(1..=65_500).contains(&width) {
        return Err(refuse(format!("{height}x{width} pixels are none or too many")));
    }
    let interleaved = interleave(pixels, channels);
    // The crate reports libjpeg's fatal errors by unwinding, without a panic's message. The closure
    // changes no outside state, so it is safe to go on.
    let file = catch_unwind(AssertUnwindSafe(|| -> std::io::Result<Vec<u8>> {
        let mut encoder = Compress::new(space);
        encoder.set_size(width, height);
        // libjpeg's own settings instead of the crate's slower ones.
        encoder.set_fastest_defaults();
        encoder.set_quality(QUALITY);
        if channels == 3 {
            encoder.set_chroma_sampling_pixel_sizes((2, 2), (2, 2));
        }
        let mut encoder = encoder.start_compress(Vec::new())?;
        encoder.write_scanlines(&interleaved)?;
        encoder.finish()
    }));
    let file = file
        .map_err(|_| refuse("libjpeg fails".into()))?
        .map_err(|error| refuse(error.to_string()))?;
    let image = decode::jpeg(&file).map_err(refuse)?;
    Ok(planes(&image.values, channels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    /// `tests/goldens/make_jpeg.py` writes the file.
    #[test]
    fn it_is_what_pillow_reads_back() {
        let bytes = std::fs::read(crate::in_repository("tests/goldens/jpeg.safetensors")).unwrap();
        let goldens = SafeTensors::deserialize(&bytes).unwrap();
        for name in ["gray.noise", "gray.smooth", "rgb.noise", "rgb.smooth"] {
            let [before, after] =
                ["before", "after"].map(|part| goldens.tensor(&format!("{name}.{part}")).unwrap());
            let shape = before.shape();
            let found = recompressed(before.data(), shape[0], shape[1], shape[2]).unwrap();
            assert_eq!(found, after.data(), "{name}");
            assert_ne!(found, before.data(), "{name}");
        }
    }

    #[test]
    fn what_jpeg_cannot_hold_is_explained() {
        let message = recompressed(&[0; 12], 2, 2, 3).unwrap_err().to_string();
        assert!(message.contains("2 channels, not 1 or 3"), "{message}");
        let message = recompressed(&[0; 70_000], 1, 70_000, 1).unwrap_err().to_string();
        assert!(message.contains("70000x1 pixels are none or too many"), "{message}");
    }
}
