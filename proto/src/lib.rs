//! The protocol between coordinator, draft and target: the generated messages, clients and servers of `outrider.v1`.
//!
//! The `.proto` files beside this crate are the reference; `docs/protocol.md` explains how their messages play together.

/// Version 1 of the protocol. Within it messages only grow; peers ignore fields that they do not know.
pub mod v1 {
    #![expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "the generated items carry the comments of the .proto files; the rest is prost's and tonic's"
    )]
    tonic::include_proto!("outrider.v1");
}

/// The encoded `FileDescriptorSet` of `outrider.v1`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/outrider_descriptor.bin"));

/// What `DescribeResponse.protocol_version` says.
pub const PROTOCOL_VERSION: u32 = 1;
