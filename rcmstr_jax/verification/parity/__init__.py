"""Do our numbers agree with the published code? One file per golden fixture."""
