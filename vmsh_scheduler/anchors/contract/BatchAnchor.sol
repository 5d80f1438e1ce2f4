// SPDX-License-Identifier: MIT
// BatchAnchor.bin and BatchAnchor.abi.json were made from this file by npm's solc 0.8.37 (0.8.37+commit.f401782d):
// optimizer enabled, 200 runs; evmVersion paris (no PUSH0, so that older chains take it); metadata bytecodeHash none,
// appendCBOR false (the bytecode depends on nothing but the code below).
pragma solidity 0.8.37;

/// Writes a Merkle root down: an event always, and in storage where the caller asks for it.
///
/// It has no owner, takes no money and can be neither changed nor stopped. Whoever calls it says nothing but "this root
/// existed when this block was made"; so anybody may call it, and a root that stands there stands for ever.
contract BatchAnchor {
    event BatchAnchored(bytes32 indexed root, bytes32 indexed batchId, string memo);

    error EmptyRoot();

    /// Time (seconds) of the block in which a root was first anchored with `persist`; 0 = never.
    mapping(bytes32 root => uint256 time) public anchoredAt;

    /// `batchId` is keccak256 of the batch's id in UTF-8.
    function anchor(bytes32 root, bytes32 batchId, string calldata memo, bool persist) external {
        if (root == bytes32(0)) revert EmptyRoot();
        if (persist && anchoredAt[root] == 0) anchoredAt[root] = block.timestamp;
        emit BatchAnchored(root, batchId, memo);
    }
}
