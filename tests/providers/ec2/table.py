"""The sizes in the table of types that ships with the package."""

from one_provider_mad.providers.ec2.built_in import built_in_types
from one_provider_mad.providers.interface import Size

SIZES = {name: Size(cpu=each.cpu, memory=each.memory) for name, each in built_in_types().items()}
