"""What instances and loose resources have cost: booked by the information driver alone, read by all other processes."""
