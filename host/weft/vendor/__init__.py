"""The vendor's tools: how they are called, what their reports and logs say."""
