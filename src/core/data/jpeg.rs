//! What JPEG leaves of an image, for recipes whose published code saves such files: as Pillow writes and reads them by default.

use super::DataError;
use super::png::{interleave, planes};
use image::{ImageFormat, ImageReader};
use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};
use std::io::Cursor;

const QUALITY: u8 = 75;

/// The pixels `[C, H, W]` that come back from a JPEG file of `pixels` `[C, H, W]`: quality 75, and of three channels the colours at half the resolution.
///
/// # Errors
/// When there are not 1 or 3 channels, or a side is beyond 65535.
pub fn recompressed(pixels: &[u8], channels: usize, height: usize, width: usize) -> Result<Vec<u8>, DataError> {
    let refuse = |why: String| DataError::Mismatch(format!("an image can't be passed through JPEG: {why}"));
    let color = match channels {
        1 => ColorType::Luma,
        3 => ColorType::Rgb,
        _ => return Err(refuse(format!("it has {channels} channels, not 1 or 3"))),
    };
    let (Ok(rows), Ok(columns)) = (u16::try_from(height), u16::try_from(width)) else {
        return Err(refuse(format!("{height}x{width} pixels are too many")));
    };
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.encode(&interleave(pixels, channels), columns, rows, color).map_err(|error| refuse(error.to_string()))?;
    let image = ImageReader::with_format(Cursor::new(file), ImageFormat::Jpeg)
        .decode()
        .map_err(|error| refuse(error.to_string()))?;
    Ok(match channels {
        1 => image.into_luma8().into_raw(),
        _ => planes(&image.into_rgb8().into_raw(), 3),
    })
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
            let [before, after] = ["before", "after"].map(|part| goldens.tensor(&format!("{name}.{part}")).unwrap());
            let shape = before.shape();
            let found = recompressed(before.data(), shape[0], shape[1], shape[2]).unwrap();
            let mean = |a: &[u8], b: &[u8]| {
                a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
            };
            // A coefficient between two steps may fall either way, and colours are interpolated a little differently.
            let (off, moved) = (mean(&found, after.data()), mean(before.data(), after.data()));
            assert!(off < moved / 8.0 && moved > 1.0, "{name}: {off} of {moved} levels");
        }
    }

    #[test]
    fn what_jpeg_cannot_hold_is_explained() {
        let message = recompressed(&[0; 12], 2, 2, 3).unwrap_err().to_string();
        assert!(message.contains("2 channels, not 1 or 3"), "{message}");
        let message = recompressed(&[0; 70_000], 1, 70_000, 1).unwrap_err().to_string();
        assert!(message.contains("70000x1 pixels are too many"), "{message}");
    }
}
