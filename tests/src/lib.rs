//! The cluster harness of the end-to-end tests
