variable "project" {
  description = "Id of the Google Cloud project that everything is made in; one of its own is easiest to delete."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project's id has 6 to 30 lowercase letters, digits and dashes, begins with a letter and ends with no dash."
  }
}

variable "ssh_from" {
  description = "Address ranges from which SSH is allowed, like [\"198.51.100.7/32\"]: yours, not the world's."
  type        = list(string)

  validation {
    condition     = length(var.ssh_from) > 0 && alltrue([for range in var.ssh_from : can(cidrhost(range, 0))])
    error_message = "Name at least one range in CIDR form, like 198.51.100.7/32."
  }

  validation {
    condition     = alltrue([for range in var.ssh_from : try(tonumber(split("/", range)[1]) >= 8, false)])
    error_message = "A range wider than /8 lets nearly everybody in; name your own address with /32."
  }
}

variable "region" {
  description = "Region of both subnetworks."
  type        = string
  default     = "us-central1"
}

variable "zones" {
  description = "Zones of the three instances, all in the region: etcd and cell-1 are in the first, cell-2 is in the second."
  type        = list(string)
  default     = ["us-central1-a", "us-central1-b"]

  validation {
    condition     = length(var.zones) == 2
    error_message = "Name two zones; they may be the same."
  }
}

variable "machine_type" {
  description = "Machine type of all instances. The smallest will do."
  type        = string
  default     = "e2-small"
}

variable "image" {
  description = "Boot image: one with cloud-init, Python 3.11 or later, and etcd among its packages."
  type        = string
  default     = "ubuntu-os-cloud/ubuntu-2404-lts-amd64"
}

variable "weft_package" {
  description = "What pip installs on the cells: a version of weft (weft==0.1.0) or a URL."
  type        = string
  default     = "weft"

  validation {
    condition     = length(trimspace(var.weft_package)) > 0
    error_message = "Say what pip is to install, like weft."
  }
}
