"""The clouds. Their code receives and returns values, and never sees a line of oned or monitord."""
