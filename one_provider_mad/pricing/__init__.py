"""What instances and their parts cost: values, the table `[prices]`, and the price book; nothing is asked here."""
