//! The target service: verifies proposals
