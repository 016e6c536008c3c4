"""The kinds of upstreams that come with pullcache. Nothing here may import what installs a reactor."""

from appliance.upstream.kinds.acr import Acr
from appliance.upstream.kinds.dockerhub import DockerHub
from appliance.upstream.kinds.ecr import Ecr, EcrPublic
from appliance.upstream.kinds.standard import Standard
from appliance.upstream.kinds.wellknown import Gcr, Ghcr, GitLab, Harbor, K8s, Mcr, Quay

distribution = Standard()
acr = Acr()
dockerhub = DockerHub()
ecr = Ecr()
ecr_public = EcrPublic()
gcr = Gcr()
ghcr = Ghcr()
gitlab = GitLab()
harbor = Harbor()
k8s = K8s()
mcr = Mcr()
quay = Quay()
