"""What ours is measured against; each module runs as a process of its own and reads a workload file."""
