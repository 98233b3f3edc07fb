//! Work that takes long keeps its state now and then, so that an interrupted attempt goes on.

/// Keeps the state of work that is under way.
pub trait Keeper {
    /// The state that an interrupted attempt kept, if any.
    fn kept(&self) -> Option<Vec<u8>>;

    /// Whether it is time to keep the state again.
    fn is_due(&self) -> bool;

    /// Keeps `state` in place of the one before.
    ///
    /// # Errors
    /// When it can't be written.
    fn keep(&mut self, state: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}

/// Keeps nothing.
pub struct Forgetful;

impl Keeper for Forgetful {
    fn kept(&self) -> Option<Vec<u8>> {
        None
    }

    fn is_due(&self) -> bool {
        false
    }

    fn keep(&mut self, _: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }
}

/// Keeps every state, and fails after so many of them, as a kill would end the work.
#[cfg(test)]
pub struct Interrupting {
    pub kept: Option<Vec<u8>>,
    pub left: u32,
}

#[cfg(test)]
impl Keeper for Interrupting {
    fn kept(&self) -> Option<Vec<u8>> {
        self.kept.clone()
    }

    fn is_due(&self) -> bool {
        true
    }

    fn keep(&mut self, state: &[u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.kept = Some(state.to_vec());
        self.left -= 1;
        if self.left == 0 { Err("killed".into()) } else { Ok(()) }
    }
}
