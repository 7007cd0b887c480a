"""An OpenNebula asked over XML-RPC. Rule: it knows the calls' form and what errors mean, not what anybody asks for."""
