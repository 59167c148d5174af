//! What the operating system may do with this process's memory, in which keys are while they are used.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// From now on no crash leaves a core dump, wherever the machine would put it, and no other process of the
/// same account reads this one's memory or environment. Linux only; elsewhere nothing changes.
pub fn keep_to_ourselves() {
    // Where the system knows no such thing there is nothing to do about it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
}

#[cfg(test)]
mod tests {
    use rustix::process::dumpable_behavior;

    use super::*;

    #[test]
    fn a_crash_leaves_no_core_dump() {
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::Dumpable));
        keep_to_ourselves();
        assert_eq!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
    }
}
