//! Rigs that drive core in virtual time, for its own tests and for the simulator.

pub mod control_rig;
